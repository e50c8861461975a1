"""What people read: the terminal's tables, progress, the single-file HTML report.

Everything here reads the record and never torch, so that a report is made again on a machine
without it; no statistic is computed here. `html` writes the page out of `sections`, `evidence`
and `figures`; `page.css` and `page.js` are inlined in it. `timeline` reads what happened to a run;
`audit` and `patterns` tell it in words, `marks` puts it on figures, `run_page` draws one run.

To add a figure, copy a function of `over_steps` or `over_seeds` and name it in `figures.draw`;
to add a part of the page, copy one of `sections` and name it in `html.page`; to have another kind
of event in timelines, add a teller to `timeline` and a sign to `marks`.
"""
