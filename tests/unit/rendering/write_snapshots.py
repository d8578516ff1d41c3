"""Writes what the bundled templates render to, for `test_bundled.py` to compare with.

Run it after a change that is meant, and read the difference before committing it:
`python -m tests.unit.rendering.write_snapshots`.
"""

from pathlib import Path

from galaxy_mail.rendering.bundled import bundled_templates
from galaxy_mail.rendering.catalog import Catalog
from galaxy_mail.rendering.limits import RenderLimits
from tests.unit.rendering.folders import rendered

SNAPSHOTS = Path(__file__).parent / "snapshots"
CODE = "042137"


def snapshots() -> dict[str, bytes]:
    """File name -> bytes, of every part in every locale."""
    catalog = Catalog.load(bundled_templates(), limits=RenderLimits())
    files: dict[str, bytes] = {}
    for info in catalog.templates():
        for locale in info.locales:
            content = rendered(catalog.render(info.template_id, locale, {"code": CODE}))
            parts = {
                "subject.txt": content.subject,
                "text.txt": content.text_body,
                "html": content.html_body or "",
            }
            files |= {f"{info.template_id}.{locale}.{part}": text.encode() for part, text in parts.items()}
    return files


if __name__ == "__main__":
    for name, data in snapshots().items():
        (SNAPSHOTS / name).write_bytes(data)
