"""`atlas explore`: a local page on an atlas, on NiceGUI, which is imported in this room alone.

In reading order: `guard` (which requests are let in), `visit` (the atlas that is shown, and what its visitors share), `address`
(links that restore a page), `spelled` (SQL to be read and copied), `frame` (what every page has), `columns` (tables of
neurons), `keep`, `files` and `export` (what is done with a table's rows), `points` and `scatter` (neurons as points, drawn by
static/scatter.js), `listed` (neurons picked there), then the pages: `found` and `search_page`, `topics_page`, `compare_page`,
`map_page`, `why` and `why_page`, `neuron_page`, `lists_page`, `sql_page`, and of steering `wish` (what is asked for),
`comparison` (texts side by side), `tokens`, `curve`, `steer_form`, `steer_view` and `steer_page`; then `app` (the pages as one
application) and `serve` (the server). To add a page, write one module with an `add_..._page` and its entry in `app.PAGES`; for
the bar also in `frame.PAGES`.
"""
