"""All claims: what a program finds, and what it cannot.

Every claim of the deck and of the five papers in one table: who says it, what the library computes, and on which page.
"""

import marimo

app = marimo.App(width="full", app_title="All claims")


@app.cell(hide_code=True)
def _():
    from html import escape

    import marimo as mo

    from inception_np.learn.claims import CLAIMS
    from inception_np.learn.pages import claims_in, pages
    from inception_np.learn.slide import BAD, GOOD, GREY, Html, figure, table, text

    return (BAD, CLAIMS, GOOD, GREY, Html, claims_in, escape, figure, mo, pages, table, text)


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    # All claims

    A claim is something that the deck, a paper or a released code says and that a program can check. Each page computes
    its own with the library and refuses to show a number that is not the one in the table. What is left takes ImageNet,
    or weeks of many machines, or is no number.
    """)
    return


@app.cell(hide_code=True)
def _(BAD, CLAIMS, GOOD, GREY, claims_in, mo, pages):
    where = {key: page.name for page in pages() for key in claims_in(page.file.read_text())}
    sources = {
        "deck": "the deck",
        "v1": "GoogLeNet",
        "bn": "Batch Normalization",
        "re": "Rethinking",
        "v4": "Inception-v4",
        "ir": "Inception-ResNet",
        "x": "Xception",
    }
    verdicts = {"holds": GOOD, "does not hold": BAD, "not computed": GREY}

    def verdict(row):
        if not row.holds:
            return "does not hold"
        return "holds" if row.found is not None else "not computed"

    def chosen(source, kind):
        """The rows of a source ("" for all) that have this verdict ("" for all)."""
        return {
            key: row
            for key, row in CLAIMS.items()
            if source in ("", key.partition(".")[0]) and kind in ("", verdict(row))
        }

    mo.show_code()
    return chosen, sources, verdict, verdicts, where


@app.cell(hide_code=True)
def _(CLAIMS, chosen, figure, mo, sources, table, verdicts, where):
    _rows = [
        (name, len(chosen(source, "")), *(len(chosen(source, kind)) for kind in verdicts))
        for source, name in {**sources, "": "all"}.items()
    ]
    _drawn, _ax = figure(8, 2.8)
    _left = [0] * len(sources)
    for _i, (_kind, _colour) in enumerate(verdicts.items()):
        _counts = [row[2 + _i] for row in _rows[:-1]]
        _ax.barh(list(sources.values()), _counts, left=_left, color=_colour, label=_kind)
        _left = [a + b for a, b in zip(_left, _counts, strict=True)]
    _ax.invert_yaxis()
    _ax.set(xlabel="claims", xlim=(0, 1.35 * max(_left)))
    _ax.legend(loc="lower right")
    mo.vstack(
        [
            mo.md(
                f"**{len(CLAIMS)}** claims, **{len(where)}** computed on {len(set(where.values()))} pages. Of all, "
                f"**{_rows[-1][3]}** do not hold: the source is wrong, or nobody can reproduce it."
            ),
            mo.hstack(
                [_drawn, table(("source", "claims", *verdicts), _rows)],
                justify="start",
                align="center",
                wrap=True,
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo, sources, verdicts):
    source = mo.ui.dropdown(
        {"all": "", **{name: key for key, name in sources.items()}}, value="all", label="source"
    )
    kind = mo.ui.dropdown(
        {"all": "", **{name: name for name in verdicts}}, value="all", label="verdict"
    )
    mo.hstack([source, kind], justify="start")
    return kind, source


@app.cell(hide_code=True)
def _(GREY, Html, chosen, escape, kind, source, table, text, verdict, verdicts, where):
    def _cells(key, row):
        mark = Html(
            f'<span style="color:{verdicts[verdict(row)]};white-space:nowrap"><b>{verdict(row)}</b></span>'
        )
        why = (
            f'<div style="color:{GREY};font-size:85%">{escape(row.note)}</div>' if row.note else ""
        )
        found = text(row.found) if row.found is not None else ""
        return key, row.source, Html(f"{escape(row.says)}{why}"), found, mark, where.get(key, "")

    table(
        ("claim", "who says it", "what, and why", "found", "", "page"),
        [_cells(key, row) for key, row in chosen(source.value, kind.value).items()],
    )
    return


if __name__ == "__main__":
    app.run()
