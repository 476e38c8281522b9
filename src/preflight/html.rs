//! One page for a change ticket: it needs nothing but itself, reads in light and in dark, and
//! prints.

use super::{FindingReport, Graph, PreflightReport, Source};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// The report as a page, with a drawing of who calls whom.
pub fn page(report: &PreflightReport, graph: &Graph) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut page, report, graph);
    page
}

fn write(page: &mut String, report: &PreflightReport, graph: &Graph) -> std::fmt::Result {
    let summary = &report.summary;
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Preflight: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>",
        summary.verdict
    )?;
    writeln!(
        page,
        "<header><h1>From PERMISSIVE to STRICT</h1>\n\
         <p class=\"verdict {}\">{}</p></header>",
        summary.verdict.to_lowercase(),
        summary.verdict
    )?;
    writeln!(page, "<dl class=\"tiles\">")?;
    for (name, count) in [
        ("namespaces", summary.namespaces),
        ("ready", summary.ready),
        ("blocked", summary.blocked),
        ("undecided", summary.undecided),
        ("block", summary.findings.block),
        ("hold", summary.findings.hold),
        ("warn", summary.findings.warn),
        ("inform", summary.findings.inform),
    ] {
        writeln!(page, "<div class=\"{name}\"><dt>{name}</dt><dd>{count}</dd></div>")?;
    }
    writeln!(page, "</dl>")?;
    namespaces(page, report)?;
    graph.write(page, |name| {
        let mut all = report.namespaces.iter();
        all.find(|one| one.name == name).map(|one| one.verdict)
    })?;
    findings(page, report)?;
    input(page, report)?;
    writeln!(
        page,
        "<footer>meshrollout preflight {}. It wrote nothing.</footer>\n</main>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    )
}

fn namespaces(page: &mut String, report: &PreflightReport) -> std::fmt::Result {
    writeln!(
        page,
        "<section><h2>Namespaces</h2>\n<table><thead><tr><th>Namespace</th><th>Verdict</th><th>Why</th></tr></thead><tbody>"
    )?;
    for one in &report.namespaces {
        writeln!(
            page,
            "<tr><td>{}</td><td><span class=\"mark {}\">{}</span></td><td>{}</td></tr>",
            text(&one.name),
            one.verdict.to_lowercase(),
            one.verdict,
            text(&one.why)
        )?;
    }
    writeln!(page, "</tbody></table></section>")
}

/// By the namespace of their subjects; what is in none comes first.
fn findings(page: &mut String, report: &PreflightReport) -> std::fmt::Result {
    writeln!(page, "<section><h2>Findings</h2>")?;
    if report.findings.is_empty() {
        writeln!(page, "<p>None.</p>")?;
    }
    let mut homes: Vec<_> = report.findings.iter().map(|found| &found.subject.namespace).collect();
    homes.sort();
    homes.dedup();
    for home in homes {
        writeln!(page, "<h3>{}</h3>", text(home.as_deref().unwrap_or("the whole cluster")))?;
        for found in report.findings.iter().filter(|found| found.subject.namespace == *home) {
            finding(page, found)?;
        }
    }
    writeln!(page, "</section>")
}

fn finding(page: &mut String, found: &FindingReport) -> std::fmt::Result {
    writeln!(
        page,
        "<article class=\"{level}\"><h4><span class=\"mark {level}\">{level}</span> \
         <a href=\"{docs}\">{code} {name}</a> <span class=\"about\">{about}</span></h4>\n<p>{message}</p>",
        level = found.level,
        docs = text(&found.docs),
        code = found.code,
        name = found.name,
        about = text(&found.about()),
        message = text(&found.message),
    )?;
    if !found.evidence.is_empty() {
        writeln!(page, "<ul>")?;
        for fact in &found.evidence {
            writeln!(page, "<li>{}</li>", text(fact))?;
        }
        writeln!(page, "</ul>")?;
    }
    if let Some(Source { file, line }) = &found.source {
        writeln!(page, "<p class=\"place\">{}:{line}</p>", text(file))?;
    }
    if !found.remedy.is_empty() {
        writeln!(page, "<pre>{}</pre>", text(&found.remedy))?;
    }
    writeln!(page, "</article>")
}

fn input(page: &mut String, report: &PreflightReport) -> std::fmt::Result {
    let input = &report.summary.input;
    writeln!(page, "<section><h2>What was read</h2>")?;
    if input.source == "cluster" {
        return writeln!(page, "<p>The live cluster.</p></section>");
    }
    writeln!(
        page,
        "<p>Files. Objects of other kinds skipped: {}. Templates left out: {}. Documents not readable: {}.</p>",
        input.skipped,
        input.templates,
        input.broken.len()
    )?;
    if !input.broken.is_empty() {
        writeln!(page, "<ul>")?;
        for broken in &input.broken {
            writeln!(page, "<li>{}</li>", text(broken))?;
        }
        writeln!(page, "</ul>")?;
    }
    writeln!(page, "</section>")
}

/// As it may stand in a page, also within an attribute's quotes.
fn text(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    for letter in raw.chars() {
        match letter {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_objects_say_is_text_and_nothing_else() {
        assert_eq!(
            text("<script>\"a\" & 'b'</script>"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;"
        );
    }
}
