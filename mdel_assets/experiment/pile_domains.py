"""The 22 subsets of the Pile, one row each.

``key`` names the partition and the folder; ``name`` is the exact ``meta.pile_set_name``; further
spellings found in the wild are aliases. Source: Gao et al. 2020, "The Pile", table 1.
"""

from mdel_assets.experiment.fields import Domain

PILE_DOMAINS: tuple[Domain, ...] = (
    Domain(key="pile_cc", name="Pile-CC"),
    Domain(key="pubmed_central", name="PubMed Central"),
    Domain(key="books3", name="Books3"),
    Domain(key="openwebtext2", name="OpenWebText2"),
    Domain(key="arxiv", name="ArXiv"),
    Domain(key="github", name="Github", aliases=("GitHub",)),
    Domain(key="freelaw", name="FreeLaw"),
    Domain(key="stackexchange", name="StackExchange", aliases=("Stack Exchange",)),
    Domain(key="uspto", name="USPTO Backgrounds"),
    Domain(key="pubmed_abstracts", name="PubMed Abstracts"),
    Domain(key="gutenberg", name="Gutenberg (PG-19)"),
    Domain(key="opensubtitles", name="OpenSubtitles"),
    Domain(key="wikipedia", name="Wikipedia (en)"),
    Domain(key="dm_mathematics", name="DM Mathematics"),
    Domain(key="ubuntu_irc", name="Ubuntu IRC"),
    Domain(key="bookcorpus2", name="BookCorpus2"),
    Domain(key="europarl", name="EuroParl"),
    Domain(key="hackernews", name="HackerNews"),
    Domain(key="youtubesubtitles", name="YoutubeSubtitles"),
    Domain(key="philpapers", name="PhilPapers"),
    Domain(key="nih_exporter", name="NIH ExPorter"),
    Domain(key="enron", name="Enron Emails"),
)
