"""The tables and figures of the papers that can be made from an atlas: each is one entry beside what computes it.

An exhibit computes a frame from its ExhibitInputs, says in a line what the frame shows, and draws it. Drawing sees nothing but
the frame, as it stands in the CSV file. Numbers follow the topic paper (arXiv 2506.12576); SAS is arXiv 2503.00177.
"""

from __future__ import annotations

from atlas.reproduction import (
    contrastive,
    cost,
    design_choices,
    detection_curves,
    generated_text,
    layer_figures,
    narrow_subjects,
    reference_set,
)

FIRST = (  # the order of the page; others follow
    "table_2",
    "table_3",
    "table_4",
    "table_5",
    "table_7",
    "table_8",
    "figure_3",
    "figure_4",
    "figure_5",
    "figure_6",
    "figure_8",
    "rank_stability",
    "figure_9",
    "figure_10",
    "topic_distances",
    "figure_11",
    "figure_12",
    "figure_13",
    "narrow_subjects",
    "sas_shift",
    "sas_ablations",
    "sas_price",
    "sas_unrelated",
    "sas_overlap",
    "sas_sparsity",
)
_FOUND = {
    **generated_text.EXHIBITS,
    **cost.EXHIBITS,
    **design_choices.EXHIBITS,
    **reference_set.EXHIBITS,
    **detection_curves.EXHIBITS,
    **layer_figures.EXHIBITS,
    **narrow_subjects.EXHIBITS,
    **contrastive.EXHIBITS,
}
EXHIBITS = {name: _FOUND[name] for name in (*FIRST, *(name for name in _FOUND if name not in FIRST))}
