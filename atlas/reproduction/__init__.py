"""The papers' tables and figures, from an atlas.

In reading order: `reproduce` (make all, resumable), `exhibit` (what one is), `exhibits` (all, in the page's order),
`exhibit_inputs` (what they are computed from), `page` and `plots` (how they are shown), and one file per subject:
`reference_set`, `design_choices`, `detection_curves`, `narrow_subjects`, `layer_figures`, `generated_text`, `cost`,
`contrastive`. To add an exhibit, write into one of these files its rows, its words and its picture, and an entry in
the file's EXHIBITS.
"""
