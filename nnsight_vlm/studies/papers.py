"""The papers that recipes follow, as a methods section cites them.

A paper is known by its arXiv id. Authors, year and title are given where they were looked up; where they were not, a
reference has the id alone.
"""

from __future__ import annotations

from dataclasses import dataclass

OTHERS = "others"
"""Stands for the authors that are not listed, as in BibTeX."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One paper.

    Attributes:
        arxiv: its arXiv id, such as `"2411.17491"`.
        authors: family name and first name of each author, in order, or the first and `OTHERS`; empty where they are
            not known here.
        title: empty where it is not known here.
        name: what texts call it where the authors are not known.
        published: the year, where it appeared long before it was put on arXiv.
    """

    arxiv: str
    authors: tuple[str, ...] = ()
    title: str = ""
    name: str = ""
    published: int | None = None

    @property
    def year(self) -> int:
        """The year in which it appeared: on arXiv, whose ids begin with it, unless `published` says another."""
        return self.published or 2000 + int(self.arxiv[:2])

    @property
    def cited(self) -> str:
        """How a text names it.

        >>> GEVA.cited, PAPERS["2604.09364"].cited
        ('Geva et al. 2023', 'arXiv 2604.09364')
        """
        families = [author.partition(",")[0] for author in self.authors]
        if not families:
            return f"{self.name} (arXiv {self.arxiv})" if self.name else f"arXiv {self.arxiv}"
        few = len(families) < 3 and OTHERS not in families
        who = " and ".join(families) if few else f"{families[0]} et al."
        return f"{who} {self.year}"


KADURI = Paper(
    arxiv="2411.17491",
    authors=("Kaduri, Omri", "Bagon, Shai", "Dekel, Tali"),
    title="What's in the Image? A Deep-Dive into the Vision of Vision Language Models",
)
GEVA = Paper(
    arxiv="2304.14767",
    authors=("Geva, Mor", "Bastings, Jasmijn", "Filippova, Katja", "Globerson, Amir"),
    title="Dissecting Recall of Factual Associations in Auto-Regressive Language Models",
)
GEIGER = Paper(
    arxiv="2106.02997",
    authors=("Geiger, Atticus", "Lu, Hanson", "Icard, Thomas", "Potts, Christopher"),
    title="Causal Abstractions of Neural Networks",
)
NOTICE = Paper(
    arxiv="2406.16320",
    authors=(
        "Golovanevsky, Michal",
        "Rudman, William",
        "Palit, Vedant",
        "Singh, Ritambhara",
        "Eickhoff, Carsten",
    ),
    title=(
        "What Do VLMs NOTICE? A Mechanistic Interpretability Pipeline for Gaussian-Noise-free Text-Image Corruption "
        "and Evaluation"
    ),
)
ZHANG = Paper(
    arxiv="2411.18620",
    authors=("Zhang, Zhi", "Yadav, Srishti", "Han, Fengze", "Shutova, Ekaterina"),
    title="Cross-modal Information Flow in Multimodal Large Language Models",
)
BASU = Paper(
    arxiv="2406.04236",
    authors=(
        "Basu, Samyadeep",
        "Grayson, Martin",
        "Morrison, Cecily",
        "Nushi, Besmira",
        "Feizi, Soheil",
        "Massiceti, Daniela",
    ),
    title="Understanding Information Storage and Transfer in Multi-modal Large Language Models",
)
WANG = Paper(
    arxiv="2211.00593",
    authors=("Wang, Kevin", "Variengien, Alexandre", "Conmy, Arthur", "Shlegeris, Buck", "Steinhardt, Jacob"),
    title="Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small",
)
GOLDOWSKY_DILL = Paper(
    arxiv="2304.05969",
    authors=("Goldowsky-Dill, Nicholas", "MacLeod, Chris", "Sato, Lucas", "Arora, Aryaman"),
    title="Localizing Model Behavior with Path Patching",
)
MCGRATH = Paper(
    arxiv="2307.15771",
    authors=("McGrath, Thomas", "Rahtz, Matthew", "Kramar, Janos", "Mikulik, Vladimir", "Legg, Shane"),
    title="The Hydra Effect: Emergent Self-repair in Language Model Computations",
)
NEO = Paper(
    arxiv="2410.07149",
    authors=("Neo, Clement", "Ong, Luke", "Torr, Philip", "Geva, Mor", "Krueger, David", "Barez, Fazl"),
    title="Towards Interpreting Visual Information Processing in Vision-Language Models",
)
ROHRBACH = Paper(
    arxiv="1809.02156",
    authors=(
        "Rohrbach, Anna",
        "Hendricks, Lisa Anne",
        "Burns, Kaylee",
        "Darrell, Trevor",
        "Saenko, Kate",
    ),
    title="Object Hallucination in Image Captioning",
)
SINKS = Paper(
    arxiv="2503.03321",
    authors=("Kang, Seil", "Kim, Jinyeong", "Kim, Junhyeok", "Hwang, Seong Jae"),
    title="See What You Are Told: Visual Attention Sink in Large Multimodal Models",
)
LOCALISATION_HEADS = Paper(
    arxiv="2503.06287",
    authors=("Kang, Seil", "Kim, Jinyeong", "Kim, Junhyeok", "Hwang, Seong Jae"),
    title="Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual Grounding",
)
FASTV = Paper(
    arxiv="2403.06764",
    authors=(
        "Chen, Liang",
        "Zhao, Haozhe",
        "Liu, Tianyu",
        "Bai, Shuai",
        "Lin, Junyang",
        "Zhou, Chang",
        "Chang, Baobao",
    ),
    title=(
        "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-Language "
        "Models"
    ),
)
EXCITATION = Paper(
    arxiv="1608.00507",
    authors=("Zhang, Jianming", "Lin, Zhe", "Brandt, Jonathan", "Shen, Xiaohui", "Sclaroff, Stan"),
    title="Top-down Neural Attention by Excitation Backprop",
)
SYED = Paper(
    arxiv="2310.10348",
    authors=("Syed, Aaquib", "Rager, Can", "Conmy, Arthur"),
    title="Attribution Patching Outperforms Automated Circuit Discovery",
)
PEARL = Paper(arxiv="1301.2300", authors=("Pearl, Judea",), title="Direct and Indirect Effects", published=2001)
VIG = Paper(
    arxiv="2004.12265",
    authors=(
        "Vig, Jesse",
        "Gehrmann, Sebastian",
        "Belinkov, Yonatan",
        "Qian, Sharon",
        "Nevo, Daniel",
        "Sakenis, Simas",
        "Huang, Jason",
        "Singer, Yaron",
        "Shieber, Stuart",
    ),
    title="Causal Mediation Analysis for Interpreting Neural NLP: The Case of Gender Bias",
)
PATHWAYS = Paper(arxiv="2607.03358", name="Pathways")
NNSIGHT = Paper(
    arxiv="2407.14561",
    authors=("Fiotto-Kaufman, Jaden", OTHERS),
    title="NNsight and NDIF: Democratizing Access to Open-Weight Foundation Model Internals",
)

PAPERS = {
    paper.arxiv: paper
    for paper in (
        *(KADURI, GEVA, GEIGER, NOTICE, ZHANG, BASU, NEO, SINKS, LOCALISATION_HEADS, FASTV, PATHWAYS, NNSIGHT),
        *(EXCITATION, WANG, GOLDOWSKY_DILL, MCGRATH, SYED, PEARL, VIG),
        *(Paper(arxiv=number) for number in ("2512.07580", "2602.00462", "2604.09364", "2604.12358", "2605.19792")),
    )
}
"""Every paper by its arXiv id."""
