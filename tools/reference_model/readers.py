"""Readers that turn the files of a Debian package into plain-text documents.

Every reader takes the folder a package was unpacked to and a list of glob
patterns, and yields (name, text) pairs; paragraphs are separated by one blank
line.
"""

import gzip
import html.parser
import pathlib
import re
import struct
import subprocess
import zlib

_SKIP = {"script", "style", "nav", "header", "footer", "head", "svg", "math", "form"}
_VOID = {"br", "img", "hr", "meta", "link", "input", "col", "wbr"}
_BLOCK = {
    "p", "li", "dd", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "div", "pre",
    "section", "blockquote", "tr", "table", "ul", "ol", "dl", "article", "body", "caption",
}  # fmt: skip
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6", "dt"}
_SKIP_CLASS = re.compile(
    r"sidebar|navbar|navigation|breadcrumb|related|toctree|headerlink|\btoc\b|footer|menu|"
    r"navheader|viewcode|linenos|index-?toc|admonition-todo|search",
    re.IGNORECASE,
)
_SKIP_FILE = re.compile(
    r"/(genindex|search|py-modindex|modindex|index-all|allclasses|print|changelog|changes|"
    r"license|copyright|credits|authors|bookindex|contributors)[^/]*\.html|/_modules/|/_sources/",
    re.IGNORECASE,
)


class _Blocks(html.parser.HTMLParser):
    """Collects the text blocks of a page as (kind, text), kind in {h, p, li, pre}."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks = []
        self._stack = []
        self._skip_depth = None
        self._text = []

    def _flush(self):
        text = "".join(self._text)
        self._text = []
        tags = [tag for tag in self._stack if tag in _BLOCK]
        if "pre" in tags:
            kind, text = "pre", text.strip("\n").rstrip()
        else:
            text = " ".join(text.split()).replace("¶", "").strip()
            tag = tags[-1] if tags else "p"
            kind = "h" if tag in _HEADINGS else "li" if "li" in tags[-2:] else "p"
        if text:
            self.blocks.append((kind, text))

    def handle_starttag(self, tag, attrs):
        if tag in _BLOCK or tag == "br":
            if tag == "br" and "pre" not in self._stack:
                self._text.append(" ")
            elif tag == "br":
                self._text.append("\n")
            else:
                self._flush()
        if tag in _VOID:
            return
        self._stack.append(tag)
        attributes = dict(attrs)
        marks = f"{attributes.get('class') or ''} {attributes.get('role') or ''}"
        skipped = tag not in ("body", "html") and (tag in _SKIP or _SKIP_CLASS.search(marks))
        if self._skip_depth is None and skipped:
            self._skip_depth = len(self._stack)

    def handle_endtag(self, tag):
        if tag in _VOID or tag not in self._stack:
            return
        if tag in _BLOCK:
            self._flush()
        while self._stack and self._stack.pop() != tag:
            pass
        if self._skip_depth is not None and len(self._stack) < self._skip_depth:
            self._skip_depth = None

    def handle_data(self, data):
        if self._skip_depth is None:
            self._text.append(data)


def html_to_text(page):
    """Returns the prose of an HTML page: headings, paragraphs, items, short code."""
    parser = _Blocks()
    parser.feed(page)
    parser.close()
    parser._flush()
    out, pending = [], []
    for kind, text in parser.blocks:
        letters = sum(c.isalpha() or c == " " for c in text)
        if kind == "h":
            heading = re.sub(r"^[\d.]+\s+", "", text)
            pending = pending[-1:] + [heading] if len(heading) <= 120 else []
        elif kind == "pre":
            if out and not pending and len(text) <= 500 and letters >= 0.55 * len(text):
                out.append(text)
        elif len(text) >= 40 and letters >= 0.82 * len(text) and len(text.split()) >= 7:
            out += pending
            pending = []
            out.append(f"- {text}" if kind == "li" and not text.startswith("- ") else text)
    return "\n\n".join(out)


def _files(root, patterns):
    """Yields the files under root that match a pattern; a '!' pattern excludes."""
    excluded = {f for p in patterns if p.startswith("!") for f in root.glob(p[1:])}
    seen = set()
    for pattern in patterns:
        if pattern.startswith("!"):
            continue
        for path in sorted(root.glob(pattern)):
            if path.is_file() and not path.is_symlink() and path not in excluded | seen:
                seen.add(path)
                yield path


def _read(path):
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return data.decode("utf-8", errors="replace")


def read_html(root, patterns):
    """HTML pages."""
    for path in _files(root, patterns):
        name = str(path.relative_to(root))
        if not _SKIP_FILE.search("/" + name):
            yield name, html_to_text(_read(path))


def read_man(root, patterns):
    """Manual pages, through mandoc's HTML output."""
    for path in _files(root, patterns):
        source = _read(path)
        if source.startswith(".so "):
            continue
        command = ["mandoc", "-T", "html", "-O", "fragment"]
        page = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
        yield str(path.relative_to(root)), html_to_text(page.stdout.decode("utf-8", "replace"))


def _unwrap(text):
    """Joins the hard-wrapped lines of each paragraph; keeps indented verse as lines."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        lines = [line.rstrip() for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        verse = all(line.startswith("    ") for line in lines)
        paragraphs.append(("\n" if verse else " ").join(line.strip() for line in lines))
    return "\n\n".join(paragraphs)


def _chapters(name, text, heading):
    """Splits a book at lines that match heading and yields its unwrapped chapters."""
    for i, chapter in enumerate(re.split(heading, text, flags=re.MULTILINE)):
        paragraphs = _unwrap(chapter.replace("_", "")).split("\n\n")
        for start in range(0, len(paragraphs), 200):
            yield f"{name}#{i}.{start}", "\n\n".join(paragraphs[start : start + 200])


def read_book(root, patterns):
    """Plain-text books of Project Gutenberg, without its header and licence."""
    for path in _files(root, patterns):
        text = _read(path)
        start = re.search(r"\*\*\* ?START OF TH.*\n|^Produced by.*\n", text, flags=re.MULTILINE)
        end = re.search(r"\*\*\* ?END OF|End of (the )?Project Gutenberg", text)
        text = text[start.end() if start else 0 : end.start() if end else len(text)]
        yield from _chapters(path.name, text, r"^(?=(?:CHAPTER|PART|BOOK|PROP\.|_PROP\.|Exper)\b)")


def read_austen(root, patterns):
    """The character vectors of an R lazy-load database: Jane Austen's six novels."""
    for path in _files(root, patterns):
        data = path.read_bytes()
        while data:
            stream = zlib.decompressobj()
            book = stream.decompress(data[4:])
            data = stream.unused_data
            lines, at = [], 0
            for match in re.finditer(rb"\x00\x04\x00\t(....)", book, flags=re.DOTALL):
                if match.start() >= at:
                    at = match.end() + struct.unpack(">I", match[1])[0]
                    lines.append(book[match.end() : at].decode("utf-8", "replace"))
            if len(lines) > 1000:
                heading = r"^(?=(?:CHAPTER|Chapter) [IVXLC\d]+)"
                yield from _chapters(lines[0], "\n".join(lines), heading)


def read_dictd(root, patterns):
    """A dictd database: entries are grouped forty to a document."""
    for path in _files(root, patterns):
        text = re.sub(r"^00-database.*?(?=\n\n)", "", _read(path), flags=re.DOTALL)
        entries = re.split(r"\n\n(?=\S)", text)
        for i in range(0, len(entries), 40):
            yield f"{path.name}#{i}", _unwrap("\n\n".join(entries[i : i + 40]))


def read_wordnet(root, patterns):
    """WordNet's glosses as dictionary entries, thirty-two synsets to a document."""
    kinds = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
    for path in _files(root, patterns):
        entries = []
        for line in _read(path).splitlines():
            if line.startswith("  "):
                continue
            fields, gloss = line.split(" | ")
            fields = fields.split()
            count = int(fields[3], 16)
            words = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2]]
            entries.append(f"{', '.join(words)} ({kinds[fields[2]]}): {gloss.strip()}.")
        for i in range(0, len(entries), 32):
            yield f"{path.name}#{i}", "\n\n".join(entries[i : i + 32])


def read_kjv(root, patterns):
    """The King James Bible, one document per chapter, through the program `bible`."""
    del root, patterns
    run = subprocess.run(["bible", "-f"], input=b"gen1:1-rev22:21\n", capture_output=True, check=True)
    chapters = {}
    for line in run.stdout.decode().splitlines():
        match = re.match(r"(?:bible.*> )?(\d?[A-Za-z]+)(\d+):\d+ (.*)", line)
        if match:
            chapters.setdefault((match[1], match[2]), []).append(match[3])
    for (book, chapter), verses in chapters.items():
        yield f"{book} {chapter}", " ".join(verses)


def _plain(markup):
    return re.sub(
        r"<[^>]+>", "", re.sub(r"<note.*?</note>|<orig>.*?</orig>|<title.*?</title>", "", markup, flags=re.DOTALL)
    )


def read_sword_text(root, patterns):
    """A SWORD zText Bible, one document per chapter; OSIS markup and notes removed."""
    for path in _files(root, patterns):
        data, index = path.read_bytes(), path.with_suffix(".bzs").read_bytes()
        blocks = struct.iter_unpack("<III", index)
        text = b"".join(zlib.decompress(data[o : o + n]) for o, n, _ in blocks).decode()
        for part in re.split(r'(?=<chapter [^>]*osisID="[^"]+" sID)', text):
            match = re.match(r'<chapter [^>]*osisID="([^"]+)"', part)
            if match:
                part = re.sub(r"<(?:div|lg|l|/l|/p)\b[^>]*>", "\n", part)
                paragraphs = (" ".join(p.split()) for p in _plain(part).replace("\0", " ").split("\n"))
                yield match[1].replace(".", " "), "\n\n".join(p for p in paragraphs if p)


def read_sword_dict(root, patterns):
    """A SWORD zLD dictionary, one document per compressed block of entries."""
    for path in _files(root, patterns):
        data = path.read_bytes()
        for i, (start, size) in enumerate(struct.iter_unpack("<II", path.with_suffix(".zdx").read_bytes())):
            text = zlib.decompress(data[start : start + size]).decode("utf-8", "replace")
            entries = []
            for entry in text.split("\0"):
                title = re.search(r'<entryFree n="([^"]+)"', entry)
                if title:
                    head = "" if title[1].isdigit() else title[1] + ": "
                    body = " ".join(_plain(entry.replace("→", "")).split())
                    entries.append(head + body)
            yield f"{path.name}#{i}", "\n\n".join(entries)


READERS = {
    "html": read_html,
    "man": read_man,
    "book": read_book,
    "austen": read_austen,
    "dictd": read_dictd,
    "wordnet": read_wordnet,
    "kjv": read_kjv,
    "sword-text": read_sword_text,
    "sword-dict": read_sword_dict,
}


def read_package(root, reader, patterns):
    """Yields (name, text) for every document of an unpacked package."""
    yield from READERS[reader](pathlib.Path(root), patterns)
