"""HTML for the cells of a notebook: fragments without a page around them.

`live_view` is a run while it trains, `cells` are results: tables, images and sentences. Each has
its template beside it; `fragment` is the value that a notebook shows. They take the colors of the
notebook, light or dark, and load nothing.

Not here: what is shown, which `api.notebook` decides.
This room imports `reports` alone, and is imported by `api.notebook`.
"""
