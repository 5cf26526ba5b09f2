"""DARE with TIES' election: task vectors thinned at random, summed where their signs agree.

The rule, its paper and its limits are in `dare`; the election is that of `ties`.
"""

from mdel_assets.merge_methods.dare import RULE
from mdel_assets.merge_methods.thinning import thinning_method

METHOD = thinning_method(RULE, elects_signs=True, normalize=False, rescale=True)
