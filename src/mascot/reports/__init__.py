"""The HTML kit: pages of one file each, which hold their images and open offline.

`html` fills templates, encodes images and writes pages. `page` and `table` are the values behind
pages of tables and images (`page.html.jinja`). `training_page` is the report of a training run
(`training.html.jinja`), whose loss curve is drawn by `loss_curve`.

Not here: what a page says. Each feature fills its own page: `evaluation.scores_page`,
`evaluation.diagnosis.diagnosis_page`, `experiments.leaderboard_page`, `experiments.suite_page`,
and `api.training_report` for the training report.
This room imports `storage` and `errors` alone. `models`, `data` and all rooms above may import it.
"""
