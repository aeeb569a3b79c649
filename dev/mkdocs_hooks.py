"""MkDocs hook: links from docs/ to files of the repository, such as ../../configs/NAME.py, lead to its web page."""

import logging
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r'\]\(((?:\.\./)+)([^)#\s]+)(#[^)\s]*)?\)')
log = logging.getLogger('mkdocs.hooks.repository_links')  # warnings of mkdocs.* fail a build with --strict


def on_page_markdown(markdown, page, config, files):
    folder = Path(config.docs_dir) / Path(page.file.src_uri).parent

    def replace(match):
        parents, path, anchor = match.groups()
        target = (folder / parents / path).resolve()
        if target.is_relative_to(config.docs_dir):
            return match[0]  # a page, which MkDocs checks
        if not target.exists():
            log.warning('%s: broken link to %s', page.file.src_uri, parents + path)
        kind = 'tree' if target.is_dir() else 'blob'
        return f']({config.extra["repository"]}/{kind}/main/{target.relative_to(ROOT)}{anchor or ""})'

    return LINK.sub(replace, markdown)
