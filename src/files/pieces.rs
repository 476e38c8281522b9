//! A file's text cut into objects, each with the line where it begins.
//!
//! Dumps of a whole cluster are tens of megabytes, so that a text is never turned into values as a
//! whole: a list is cut into its items by looking at the text, each item is read by itself, and
//! what it is decides whether it is read at all.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;

/// One object's text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Piece<'a> {
    /// Where it begins, from one.
    pub(super) line: usize,
    pub(super) text: Text<'a>,
    /// What it is where it does not say so itself, as the items of the apiserver's own lists.
    pub(super) of: Option<Arc<Typed>>,
}

/// What the items of a list are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Typed {
    pub(super) version: String,
    pub(super) kind: String,
}

impl Typed {
    /// Of a `PodList` that each of its items is a Pod; of a `List` nothing.
    fn items_of(version: Option<&str>, kind: &str) -> Option<Arc<Self>> {
        let kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty())?.to_owned();
        Some(Arc::new(Self { version: version?.to_owned(), kind }))
    }
}

/// How it is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Text<'a> {
    Json(Cow<'a, str>),
    Yaml(Cow<'a, str>),
}

/// What could not be cut: line, and why.
pub(super) type Broken = (usize, String);

/// As many lists may be within each other: kubectl writes one, and a list of dumps is one more.
const DEPTH: usize = 8;

/// Cuts `text` into its objects; lists into their items.
pub(super) fn pieces(text: &str) -> (Vec<Piece<'_>>, Vec<Broken>) {
    let mut cut = Cut::default();
    // What editors and shells on other systems put before a text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // JSON documents may be divided as those of YAML are.
    match is_json(text) && !text.contains("\n---") {
        true => cut.json(text),
        false => cut.yaml(text),
    }
    (cut.pieces, cut.broken)
}

/// It begins as JSON does; a template and YAML in flow style begin with a brace as well.
fn is_json(text: &str) -> bool {
    let within = text.trim_start().strip_prefix('{').map(str::trim_start);
    within.is_some_and(|within| within.starts_with(['"', '}']))
}

#[derive(Default)]
struct Cut<'a> {
    pieces: Vec<Piece<'a>>,
    broken: Vec<Broken>,
}

/// A list, or an object of which only the kind is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    api_version: Option<Cow<'a, str>>,
    #[serde(default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// A list that only a parser can cut.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    api_version: Option<String>,
    kind: String,
    items: Vec<serde_json::Value>,
}

/// Counts lines on the way through a text.
struct Lines<'a> {
    text: &'a str,
    seen: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of what begins at `offset`, which is never before the last one asked for.
    fn at(&mut self, offset: usize) -> usize {
        let passed = self.text.as_bytes().get(self.seen..offset).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        self.seen = offset;
        self.line
    }
}

impl<'a> Cut<'a> {
    /// One JSON value after the other.
    fn json(&mut self, text: &'a str) {
        let mut lines = Lines { text, seen: 0, line: 1 };
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
        loop {
            let begin = values.byte_offset();
            let raw = match values.next() {
                None => return,
                Some(Ok(raw)) => raw.get(),
                Some(Err(error)) => {
                    self.broken.push((error.line(), error.to_string()));
                    return;
                }
            };
            let begin =
                begin + text.get(begin..).map_or(0, |rest| rest.len() - rest.trim_start().len());
            self.value(raw, begin, &mut lines, None, 0);
        }
    }

    /// The value that begins at `begin`, within so many lists.
    fn value(
        &mut self,
        raw: &'a str,
        begin: usize,
        lines: &mut Lines<'a>,
        of: Option<&Arc<Typed>>,
        depth: usize,
    ) {
        // Each list is looked through once more for each that it is in.
        if depth > DEPTH {
            let line = lines.at(begin);
            self.broken
                .push((line, format!("it is a list within {DEPTH} lists; write its items out")));
            return;
        }
        let (items, of) = match serde_json::from_str::<Head<'a>>(raw) {
            Ok(Head { api_version, kind, items: Some(items) }) if is_list(&kind) => {
                (items, Typed::items_of(api_version.as_deref(), &kind))
            }
            // Whatever it is, whoever reads it says what is wrong with it.
            _ => {
                let text = Text::Json(Cow::Borrowed(raw));
                self.pieces.push(Piece { line: lines.at(begin), text, of: of.cloned() });
                return;
            }
        };
        for item in items {
            let item = item.get();
            // Borrowed from the same text.
            let offset = item.as_ptr() as usize - raw.as_ptr() as usize;
            self.value(item, begin + offset, lines, of.as_ref(), depth + 1);
        }
    }

    /// Documents between lines of three dashes.
    fn yaml(&mut self, text: &'a str) {
        let mut begin = Some((0, 1));
        let mut offset = 0;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let end = line.trim_end();
            if end == "---" || end.starts_with("--- ") || end.starts_with("---\t") || end == "..." {
                if let Some((from, number)) = begin {
                    self.document(text.get(from..offset).unwrap_or_default(), number);
                }
                // What stands behind the dashes belongs to the document, unless it is a comment.
                let rest = end.trim_start_matches('-').trim();
                begin = match rest.is_empty() || rest.starts_with('#') || end == "..." {
                    true => Some((offset + line.len(), index + 2)),
                    false => Some((offset + 3, index + 1)),
                };
            }
            offset += line.len();
        }
        if let Some((from, number)) = begin {
            self.document(text.get(from..).unwrap_or_default(), number);
        }
    }

    fn document(&mut self, text: &'a str, line: usize) {
        let says_something = |line: &str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
        };
        if !text.lines().any(says_something) {
            return;
        }
        let written = top_level(text, "kind");
        if let Some(list) = written.filter(|kind| is_list(kind)) {
            let of = Typed::items_of(top_level(text, "apiVersion"), list);
            let mut items = Items { cut: self, from: None, is_inside: false, of };
            if items.read(text, line) {
                return;
            }
        }
        if is_json(text)
            && let Ok(raw) = serde_json::from_str::<&RawValue>(text)
        {
            let begin = text.len() - text.trim_start().len();
            self.value(raw.get(), begin, &mut Lines { text, seen: 0, line }, None, 0);
            return;
        }
        // In flow style, or as nobody writes it: whole, and without the lines of its items.
        if written.is_none_or(is_list)
            && let Ok(Whole { api_version, kind, items }) = serde_saphyr::from_str(text)
            && is_list(&kind)
        {
            let of = Typed::items_of(api_version.as_deref(), &kind);
            self.pieces.extend(items.into_iter().map(|item| Piece {
                line,
                text: Text::Json(Cow::Owned(item.to_string())),
                of: of.clone(),
            }));
            return;
        }
        self.pieces.push(Piece { line, text: Text::Yaml(Cow::Borrowed(text)), of: None });
    }
}

/// The items of a list in block style, where each begins with a dash at the line's beginning, as
/// kubectl writes them, or further in, as people do.
struct Items<'c, 'a> {
    cut: &'c mut Cut<'a>,
    /// Where the item under way begins, and its line.
    from: Option<(usize, usize)>,
    is_inside: bool,
    of: Option<Arc<Typed>>,
}

impl<'a> Items<'_, 'a> {
    /// False when the list is not written like that; then nothing was taken.
    fn read(&mut self, text: &'a str, first: usize) -> bool {
        let mut dash: Option<usize> = None;
        let mut found = vec![];
        let mut offset = 0;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let (number, begin) = (first + index, offset);
            offset += line.len();
            let body = line.trim_start_matches(' ');
            let indent = line.len() - body.len();
            if body.trim().is_empty() || (body.starts_with('#') && self.from.is_none()) {
                continue;
            }
            if !self.is_inside {
                if indent == 0
                    && let Some(rest) = line.strip_prefix("items:")
                {
                    match rest.split('#').next().unwrap_or_default().trim() {
                        "" => self.is_inside = true,
                        // An empty list has no items to be read.
                        "[]" => return true,
                        _ => return false,
                    }
                }
                continue;
            }
            let is_dash = body.starts_with("- ") || body.trim_end() == "-";
            let is_item = is_dash && dash.is_none_or(|dash| dash == indent);
            let ends = indent == 0 && !is_dash && !body.starts_with('#');
            if (is_item || ends)
                && let Some((from, number)) = self.from.take()
            {
                found.push((from, begin, number));
            }
            if is_item {
                dash = Some(indent);
                self.from = Some((begin, number));
            } else if ends {
                self.is_inside = false;
            } else if self.from.is_none() {
                return false;
            }
        }
        if let Some((from, number)) = self.from.take() {
            found.push((from, text.len(), number));
        }
        let Some(dash) = dash else { return false };
        for (from, to, line) in found {
            // The dash becomes a blank: what follows it is a mapping by itself.
            let item = text.get(from..to).unwrap_or_default();
            let (before, after) = item.split_at_checked(dash + 1).unwrap_or((item, ""));
            let text = Cow::Owned(" ".repeat(before.len()) + after);
            let of = self.of.clone();
            self.cut.pieces.push(Piece { line, text: Text::Yaml(text), of });
        }
        true
    }
}

fn is_list(kind: &str) -> bool {
    kind.ends_with("List")
}

/// The value of a key of the outermost mapping, where it is a plain word on the key's own line.
pub(super) fn top_level<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let mut outermost = None;
    for line in text.lines() {
        let body = line.trim_start_matches(' ');
        if body.is_empty() || body.starts_with('#') || body.starts_with("---") {
            continue;
        }
        let indent = line.len() - body.len();
        if *outermost.get_or_insert(indent) != indent {
            continue;
        }
        let value = body.strip_prefix(key).and_then(|rest| rest.trim_start().strip_prefix(':'));
        if let Some(value) = value {
            let value = value.split(" #").next().unwrap_or_default().trim();
            let value = value.trim_matches(|quote| quote == '"' || quote == '\'');
            // A tag, an anchor, a comment behind a tab: that is for the parser.
            let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "./-".contains(letter);
            return Some(value).filter(|value| !value.is_empty() && value.chars().all(is_plain));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(usize, String)> {
        let (pieces, broken) = pieces(text);
        assert!(broken.is_empty(), "{broken:?}");
        let text = |piece: Piece<'_>| match piece.text {
            Text::Json(text) | Text::Yaml(text) => (piece.line, text.into_owned()),
        };
        pieces.into_iter().map(text).collect()
    }

    fn lines(text: &str) -> Vec<usize> {
        cut(text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn documents_of_yaml_begin_where_they_stand() {
        assert_eq!(
            lines("kind: A\n---\n# nothing\n---\nkind: B\n--- # next\nkind: C\n"),
            [1, 5, 7]
        );
        assert_eq!(lines("---\nkind: A\n...\n---\nkind: B"), [2, 5]);
        assert_eq!(lines("\n# empty\n"), [0_usize; 0]);
        // Three dashes within a text are no end.
        assert_eq!(lines("kind: A\ntext: |\n  a\n  ---\n  b\n"), [1]);
    }

    #[test]
    fn a_list_of_yaml_is_cut_into_its_items_however_far_in_they_stand() {
        let kubectl = "apiVersion: v1\nitems:\n- kind: A\n  spec:\n    list:\n    - x\n- kind: B\nkind: List\nmetadata: {}\n";
        let by_hand = "kind: List\nitems:\n  # the first\n  - kind: A\n    spec:\n      list:\n        - x\n\n  - kind: B\n";
        let expected = |indent: &str| vec![format!("{indent}kind: A"), format!("{indent}kind: B")];
        for (text, indent, at) in [(kubectl, "  ", [3, 7]), (by_hand, "    ", [4, 9])] {
            let found = cut(text);
            let begins: Vec<_> =
                found.iter().map(|(_, text)| text.lines().next().unwrap().to_owned()).collect();
            assert_eq!(begins, expected(indent));
            assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), at);
            assert!(found[0].1.contains("- x"), "what is within an item stays with it");
        }
        assert!(cut("kind: PodList\nitems: []\n").is_empty());
        let alone = "kind: List\nitems:\n-\n  kind: A\n-\n  kind: B\n";
        assert_eq!(lines(alone), [3, 5]);
    }

    #[test]
    fn lists_of_json_are_cut_into_their_items_also_within_each_other() {
        let text = "\n{\"kind\": \"List\",\n \"items\": [\n  {\"kind\": \"A\"},\n  {\"kind\": \"PodList\", \"items\": [\n   {\"kind\": \"B\"}]}]}\n{\"kind\": \"C\"}";
        let found = cut(text);
        let expected =
            [(4, "{\"kind\": \"A\"}"), (6, "{\"kind\": \"B\"}"), (7, "{\"kind\": \"C\"}")];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
        let divided =
            "{\"kind\": \"A\"}\n---\n{\"kind\": \"List\", \"items\": [{\"kind\": \"B\"}]}\n";
        let expected = [(1, "{\"kind\": \"A\"}"), (3, "{\"kind\": \"B\"}")];
        assert_eq!(cut(divided), expected.map(|(line, text)| (line, text.to_owned())));
        let (found, broken) = pieces("{\"kind\": \"A\"}\n{\"kind\": ");
        assert_eq!((found.len(), broken[0].0), (1, 2));
    }

    /// As `kubectl get --raw` has them.
    #[test]
    fn items_that_do_not_say_what_they_are_are_what_their_list_says() {
        let json =
            "{\"kind\": \"PodList\", \"apiVersion\": \"v1\", \"items\": [{\"metadata\": {}}]}";
        let yaml = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {}\n";
        let flow = "{apiVersion: v1, kind: PodList, items: [{metadata: {}}]}";
        let pod = Typed { version: "v1".into(), kind: "Pod".into() };
        for text in [json, yaml, flow] {
            let (found, broken) = pieces(text);
            assert!(broken.is_empty(), "{broken:?}");
            let [only] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!(only.of.as_deref(), Some(&pod), "{text}");
        }
        let (mixed, _) = pieces("{\"kind\": \"List\", \"apiVersion\": \"v1\", \"items\": [{}]}");
        assert_eq!(mixed[0].of, None);
    }

    #[test]
    fn the_kind_is_that_of_the_outermost_mapping() {
        let text = "# kind: X\n  spec:\n    kind: Y\n  kind: \"Pod\" # not Z\n";
        assert_eq!(top_level(text, "kind"), Some("Pod"));
        assert_eq!(top_level("spec: {kind: Y}\n", "kind"), None);
        for odd in ["kind:\n  Pod\n", "kind: !!str Pod\n", "kind: &k Pod\n", "kind: Pod\t# x\n"] {
            assert_eq!(top_level(odd, "kind"), None, "{odd}");
        }
    }
}
