"""DARE with a plain sum: task vectors thinned at random, rescaled, and summed with weights.

The rule, its paper and its limits are in `dare`.
"""

from mdel_assets.merge_methods.dare import RULE
from mdel_assets.merge_methods.thinning import thinning_method

METHOD = thinning_method(RULE, elects_signs=False, normalize=False, rescale=True)
