"""From records to what a reader sees: tables, figures, verdicts on claims, coverage, the report.

Modules of a paper's ``targets/`` get a :class:`~common.results.records.Results` and give a
:class:`~common.results.tables.Table` or a matplotlib figure; everything else happens here.
``python -m common.results --help`` lists the commands.
"""
