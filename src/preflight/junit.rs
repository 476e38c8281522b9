//! JUnit: what CI systems show as tests. Each gate of each namespace is one.

use super::{FindingReport, PreflightReport};
use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

/// The report: a suite for each finding's gate, a failed case for each finding that weighs as much
/// as `fails` says, and a case for each namespace.
pub fn junit(
    report: &PreflightReport,
    fails: impl Fn(&FindingReport) -> bool,
) -> Result<String, SerializeError> {
    let mut whole = Report::new("meshrollout preflight");
    let mut verdicts = TestSuite::new("namespaces");
    for namespace in &report.namespaces {
        let status = match namespace.verdict {
            "Ready" => TestCaseStatus::success(),
            // Not passed and not failed: what cannot be told is never fine.
            "Undecided" => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(namespace.why.as_str());
                status
            }
            _ => failure(&namespace.why, namespace.verdict, &namespace.why),
        };
        verdicts.add_test_case(TestCase::new(namespace.name.as_str(), status));
    }
    let mut findings = TestSuite::new("findings");
    for finding in &report.findings {
        let mut text =
            finding.evidence.iter().map(|fact| format!("seen: {fact}\n")).collect::<String>();
        if !finding.remedy.is_empty() {
            text.push_str(&format!("do: {}\n", finding.remedy));
        }
        text.push_str(&finding.docs);
        let status = match fails(finding) {
            true => failure(&finding.message, finding.level, &text),
            false => TestCaseStatus::success(),
        };
        let name = format!("{} {} {}", finding.code, finding.name, finding.about());
        let mut case = TestCase::new(name, status);
        case.set_classname(finding.gate.as_str());
        if let Some(source) = &finding.source {
            case.extra.insert("file".into(), source.file.as_str().into());
            case.extra.insert("line".into(), source.line.to_string().into());
        }
        if !fails(finding) {
            case.set_system_out(format!("{}: {}\n{text}", finding.level, finding.message));
        }
        findings.add_test_case(case);
    }
    whole.add_test_suites([verdicts, findings]);
    whole.to_string()
}

fn failure(message: &str, kind: &str, text: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(message);
    status.set_type(kind);
    status.set_description(text);
    status
}
