//! SARIF 2.1.0: what code hosts show beside the lines of a change.

use super::{FindingReport, PreflightReport};
use meshrollout_core::finding::{Code, Level};
use serde_json::{Value, json};

/// The report as one run. Codes are rules; what was found without a file has no place but the
/// object's name.
pub fn sarif(report: &PreflightReport) -> Value {
    let rules: Vec<_> = Code::ALL
        .iter()
        .map(|code| {
            json!({
                "id": code.id(),
                "name": code.name(),
                "shortDescription": {"text": code.doc()},
                "helpUri": crate::manual::finding_page(*code),
                "defaultConfiguration": {"level": level(code.level())},
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "meshrollout preflight",
                "version": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules,
            }},
            "results": report.findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn result(finding: &FindingReport) -> Value {
    let mut place = json!({
        "logicalLocations": [{"fullyQualifiedName": finding.about(), "kind": "resource"}],
    });
    if let Some(source) = &finding.source {
        place["physicalLocation"] = json!({
            "artifactLocation": {"uri": source.file},
            "region": {"startLine": source.line},
        });
    }
    let mut text = finding.message.clone();
    for fact in &finding.evidence {
        text.push_str(&format!("\nseen: {fact}"));
    }
    if !finding.remedy.is_empty() {
        text.push_str(&format!("\ndo: {}", finding.remedy));
    }
    json!({
        "ruleId": finding.code,
        "ruleIndex": Code::ALL.iter().position(|code| code.id() == finding.code),
        "level": level(finding.weight),
        "message": {"text": text},
        "locations": [place],
    })
}

/// SARIF has three levels: what holds a rollout is an error as much as what blocks it.
fn level(level: Level) -> &'static str {
    match level {
        Level::Block | Level::Hold => "error",
        Level::Warn => "warning",
        Level::Inform => "note",
    }
}
