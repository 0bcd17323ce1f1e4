"""`dasrec report RUN ...`: what a run or several side by side are worth, as page, JSON, Markdown.

`gather` reads the artifacts into one `Document`; report.json is that document, and the page and
the Markdown show nothing that is not in it.
"""
