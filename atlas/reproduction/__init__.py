"""The papers' tables and figures, from an atlas.

In reading order: `reproduce` (make all, resumable), `exhibits` (their list), `material` (what they are computed
from), `page` and `plots` (how they are shown), and one file per subject: `reference_set`, `design_choices`,
`detection_curves`, `layer_figures`, `generated_text`, `cost`, `contrastive`. To add an exhibit, write its `compute`,
its words and its picture, and an entry in `exhibits.EXHIBITS`.
"""
