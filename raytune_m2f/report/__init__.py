"""The report of a study: one file of HTML that opens from disk, without a network, on a phone as well.

content.py   what a study has to tell, from its record: ranks, what early stopping saved, failures by cause
figures.py   its plots, most of them Optuna's own, each with its numbers as a table
pictures.py  the same test images through several trials, and the best trial's heads on the test set
page.py      all that as a page (page.html.j2, page.css, page.js), with plotly.js inside
"""
