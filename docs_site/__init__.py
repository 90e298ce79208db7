"""The documentation as a site: `python -m docs_site` builds it into `site/`.

The repository's Markdown files are the pages; `staging` copies them with their places, so that the
links that work in the repository work on the site. `markdown_dialect` and `equations` rewrite what
mkdocs reads otherwise. `command_pages`, `recipe_pages` and `python_pages` write the reference from
the code. `built_pages` refuses a site that asks another machine for anything. None of it is
committed but these files.
"""
