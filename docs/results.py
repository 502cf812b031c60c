"""Writes docs/results.md, and the tables of README.md and deploy.md, from docs/results/*.json.

    python docs/results.py

The JSON file of a run has its numbers, command, hardware and seeds. `recorded_in` is the
commit that recorded the run; `picture` is a file in docs/ and what it shows; `readme` says which
rows and columns README.md and deploy.md show.
"""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
RESULTS, PAGE, README = HERE / "results", HERE / "results.md", HERE.parent / "README.md"
DEPLOY = HERE / "deploy.md"
HEAD = """<!-- Written by docs/results.py from docs/results/*.json. -->

# Results

All numbers are from runs of this repository, each with the command that repeats it; what was not
run says so. Accuracies are in percent, mean ± sample standard deviation over seeds. The commands
need a checkout; `experiments/README.md` there lists all of them.
"""
FACTS = ("hardware", "software", "seeds", "epochs", "minutes", "recorded_in")


def load() -> dict[str, dict]:
    """The results by name, in the order of their files."""
    files = sorted(RESULTS.glob("*.json"))
    return {path.stem.partition("_")[2]: json.loads(path.read_text()) for path in files}


def table(result: dict, rows: list[int] | None = None, columns: list[int] | None = None) -> str:
    """The table of a result, or some rows and columns of it, in Markdown."""
    columns = list(range(len(result["columns"]))) if columns is None else columns
    chosen = result["rows"] if rows is None else [result["rows"][n] for n in rows]
    lines = [result["columns"], ["---"] * len(result["columns"]), *chosen]
    return "\n".join("| " + " | ".join(line[n] for n in columns) + " |" for line in lines)


def section(name: str, result: dict) -> str:
    """A result with what it was made with."""
    known = [f"{fact.replace('_', ' ')}: {result[fact]}" for fact in FACTS if fact in result]
    facts = "; ".join(known)
    command = [f"```sh\n{result['command']}\n```"] if "command" in result else []
    picture = [f"![{result['picture'][1]}]({result['picture'][0]})"] if "picture" in result else []
    parts = [f"({name})=\n## {result['title']}", result["about"], *command, table(result), *picture]
    return "\n\n".join([*parts, f"{facts[0].upper()}{facts[1:]}.", *result.get("notes", ())])


def page(results: dict[str, dict]) -> str:
    """The text of results.md; numbers do not break from their units."""
    text = "\n\n".join([HEAD.strip(), *(section(*item) for item in results.items())]) + "\n"
    joined = lambda row: re.sub(r" (?=[±%])|(?<=±) ", "\u00a0", row.group())
    return re.sub(r"^\|.*$", joined, text, flags=re.MULTILINE)


def readme(text: str, results: dict[str, dict]) -> str:
    """A page with its tables, from `<!-- results: name -->` to `<!-- end -->`, written anew."""

    def block(found: re.Match) -> str:
        shown = table(results[found[1]], **results[found[1]]["readme"])
        return f"<!-- results: {found[1]} -->\n\n{shown}\n\n<!-- end -->"

    return re.sub(r"<!-- results: (\w+) -->.*?<!-- end -->", block, text, flags=re.DOTALL)


def main() -> None:
    """Write the files."""
    results = load()
    PAGE.write_text(page(results))
    for path in (README, DEPLOY):
        path.write_text(readme(path.read_text(), results))


if __name__ == "__main__":
    main()
