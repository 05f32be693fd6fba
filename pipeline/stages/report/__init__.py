"""tables, index, plan, predictions -> reports/<exp>/index.html, report.md: how good, where it fails, on what."""

from dataclasses import asdict

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.records.files import write_text
from pipeline.records.folders import ExperimentFolders
from pipeline.stages.report.content import collect_content
from pipeline.stages.report.wording import plain_text, score, signed_percent


def run(experiment: str) -> None:
    """Writes the report of one experiment, the same bytes for the same results.

    Raises:
        InputError: a table of an earlier stage is missing or damaged.
    """
    folders = ExperimentFolders(experiment)
    content = collect_content(experiment, folders)
    environment = Environment(loader=PackageLoader(__name__), undefined=StrictUndefined,
                              autoescape=lambda name: bool(name) and ".html" in str(name),
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": score, "signed_percent": signed_percent, "plain": plain_text,
                            "size": content["units"].shown, "asdict": asdict}
    for name, template in (("index.html", "index.html.j2"), ("report.md", "report.md.j2")):
        write_text(folders.report / name, environment.get_template(template).render(content))
    print(f"report: {folders.report / 'index.html'}")
