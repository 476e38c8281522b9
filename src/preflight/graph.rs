//! Who calls whom, and how, as a drawing for the page: from the left to the right, in the order in
//! which namespaces should become STRICT.

use meshrollout_core::ident::Namespace;
use meshrollout_core::order::{Calls, How, stages};
use meshrollout_core::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Result, Write};

/// With more a drawing shows nothing any more.
const MOST: usize = 60;

/// In a box, in letters; the whole name is its title.
const LETTERS: usize = 22;

const WIDTH: usize = 190;
const HEIGHT: usize = 30;
/// From one column, or row, to the next.
const STEP: (usize, usize) = (290, 46);

/// Who calls whom, ready to be drawn.
#[derive(Debug)]
pub struct Graph {
    calls: Calls,
    /// The namespaces that call or are called, column by column.
    columns: Vec<BTreeSet<Namespace>>,
}

impl Graph {
    /// The calls that `snapshot` shows.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self::new(meshrollout_core::order::calls(snapshot))
    }

    fn new(calls: Calls) -> Self {
        let names = calls.keys().flat_map(|(from, to)| [from, to]).cloned().collect();
        let columns = stages(&names, &calls.keys().cloned().collect(), &BTreeSet::new());
        Self { calls, columns }
    }

    /// Its part of the page. `verdict` is what would become of a namespace.
    pub(super) fn write(
        &self,
        page: &mut String,
        verdict: impl Fn(&str) -> Option<&'static str>,
    ) -> Result {
        writeln!(page, "<section><h2>Who calls whom</h2>")?;
        if self.calls.is_empty() {
            return writeln!(
                page,
                "<p>Nobody was seen to call another namespace, and no rule of a client names one.</p></section>"
            );
        }
        writeln!(
            page,
            "<p>Across namespaces: <span class=\"how plaintext\">in plaintext</span>, \
             <span class=\"how seen\">seen, and not in plaintext</span>, \
             <span class=\"how named\">named by a client's rule alone</span>.</p>"
        )?;
        if self.columns.iter().map(BTreeSet::len).sum::<usize>() <= MOST {
            self.draw(page, verdict)?;
        }
        writeln!(page, "<details><summary>{} calls in words</summary><ul>", self.calls.len())?;
        for ((from, to), how) in &self.calls {
            let words = match how {
                How::Plaintext => "sends plaintext to",
                How::Seen => "calls",
                How::Named => "has a rule for",
            };
            writeln!(page, "<li>{from} {words} {to}</li>")?;
        }
        writeln!(page, "</ul></details></section>")
    }

    fn draw(&self, page: &mut String, verdict: impl Fn(&str) -> Option<&'static str>) -> Result {
        let mut places: BTreeMap<&Namespace, (usize, usize)> = BTreeMap::new();
        for (column, names) in self.columns.iter().enumerate() {
            let rows = names.iter().enumerate();
            places.extend(rows.map(|(row, name)| (name, (column * STEP.0, row * STEP.1))));
        }
        let rows = self.columns.iter().map(BTreeSet::len).max().unwrap_or_default();
        // Arcs of those who call each other go out at the right.
        let width = self.columns.len().saturating_sub(1) * STEP.0 + WIDTH + 70;
        let height = rows * STEP.1;
        writeln!(
            page,
            "<div class=\"graph\"><svg viewBox=\"-1 -1 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"Who calls whom\">\n\
             <defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\"/></marker></defs>"
        )?;
        for ((from, to), how) in &self.calls {
            if let (Some(from), Some(to)) = (places.get(from), places.get(to)) {
                let how = how.name();
                let path = path(*from, *to);
                writeln!(
                    page,
                    "<path class=\"wire {how}\" d=\"{path}\" marker-end=\"url(#head)\"/>"
                )?;
            }
        }
        for (name, (x, y)) in places {
            let class = verdict(name.as_str()).unwrap_or_default().to_lowercase();
            let shown: String = match name.as_str().chars().count() {
                long if long > LETTERS => {
                    name.as_str().chars().take(LETTERS - 1).chain(['…']).collect()
                }
                _ => name.to_string(),
            };
            // Names of namespaces need no escape.
            writeln!(
                page,
                "<g class=\"node {class}\" transform=\"translate({x} {y})\"><title>{name}</title>\
                 <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"5\"/><text x=\"10\" y=\"20\">{shown}</text></g>"
            )?;
        }
        writeln!(page, "</svg></div>")
    }
}

/// From the right of one box to the left of another, or within a column around it.
fn path((from_x, from_y): (usize, usize), (to_x, to_y): (usize, usize)) -> String {
    let (begin, middle, end) = (from_x + WIDTH, from_y + HEIGHT / 2, to_y + HEIGHT / 2);
    // Those who call each other stand in one column.
    if to_x <= from_x {
        let (out, back) = (begin + 60, to_x + WIDTH);
        return format!("M{begin} {middle}C{out} {middle} {out} {end} {back} {end}");
    }
    if to_x == from_x + STEP.0 {
        let (before, after) = (begin + 50, to_x - 50);
        return format!("M{begin} {middle}C{before} {middle} {after} {end} {to_x} {end}");
    }
    // Past the columns between them it goes between two rows.
    let lane = middle + STEP.1 / 2;
    let (out, along) = (begin + 35, begin + 70);
    let (until, back) = (to_x - 70, to_x - 35);
    format!(
        "M{begin} {middle}C{out} {middle} {out} {lane} {along} {lane}L{until} {lane}C{back} {lane} {back} {end} {to_x} {end}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(calls: &[(&str, &str, How)]) -> String {
        let calls: Calls =
            calls.iter().map(|(a, b, how)| (((*a).into(), (*b).into()), *how)).collect();
        let mut page = String::new();
        let verdict = |name: &str| (name == "shop").then_some("Blocked");
        Graph::new(calls).write(&mut page, verdict).unwrap();
        page
    }

    #[test]
    fn each_call_is_a_line_and_a_sentence() {
        let page = drawn(&[
            ("front", "shop", How::Plaintext),
            ("front", "cart", How::Seen),
            ("cart", "shop", How::Named),
        ]);
        assert_eq!(page.matches("<path class=\"wire ").count(), 3);
        assert_eq!(page.matches("class=\"wire plaintext\"").count(), 1);
        assert!(page.contains("<li>front sends plaintext to shop</li>"), "{page}");
        // Callers stand to the left of whom they call, and each says what would become of it.
        for node in [
            "<g class=\"node \" transform=\"translate(0 0)\"><title>front</title>",
            "<g class=\"node \" transform=\"translate(290 0)\"><title>cart</title>",
            "<g class=\"node blocked\" transform=\"translate(580 0)\"><title>shop</title>",
        ] {
            assert!(page.contains(node), "{node}: {page}");
        }
    }

    #[test]
    fn a_long_name_is_cut_and_too_many_are_told_in_words() {
        let long = "a-namespace-with-a-very-long-name";
        let page = drawn(&[(long, "b", How::Seen)]);
        assert!(
            page.contains(&format!("<title>{long}</title>"))
                && page.contains("a-namespace-with-a-ve…")
        );
        let names: Vec<_> = (0..MOST).map(|at| format!("n{at}")).collect();
        let calls: Vec<_> = names.iter().map(|name| (name.as_str(), "shop", How::Seen)).collect();
        let page = drawn(&calls);
        assert!(!page.contains("<svg") && page.contains("60 calls in words"));
        assert!(drawn(&[]).contains("Nobody was seen"));
    }
}
