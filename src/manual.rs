//! The manual's pages that are printed from the code, so that they cannot say anything else.

use crate::observe::objects::looked_at;
use meshrollout_core::finding::Code;
use std::fmt::Write;

/// Where a reader finds the findings' reference.
const FINDINGS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/src/manual/findings.md");

/// The hundreds of the codes: what they are about, and the gate that asks.
const GROUPS: [(&str, &str, &str); 9] = [
    (
        "MR01",
        "injection",
        "Whether servers in scope can speak mutual TLS, now and after a restart.",
    ),
    ("MR02", "plaintext", "Who sent plaintext to a server in scope in the look-back."),
    (
        "MR03",
        "evidence",
        "Whether what was measured is complete. Not knowing is never taken for safety.",
    ),
    (
        "MR04",
        "client TLS",
        "What clients put on the wire towards a server in scope, and the object that decides it.",
    ),
    ("MR05", "policy", "Whether our policy would be the effective one, and change nothing else."),
    ("MR06", "certificates", "Whether certificates would still be valid, and are renewed."),
    (
        "MR07",
        "exposure",
        "Callers from outside the mesh that can never speak its mutual TLS. For the port that they call an exception keeps PERMISSIVE; the finding prints it.",
    ),
    ("MR08", "proxies", "Whether the switch, and the way back, would take effect."),
    ("MR09", "rollout", "What happens to a rollout under way."),
];

/// The page of one code.
pub fn finding_page(code: Code) -> String {
    format!("{FINDINGS}#{}-{}", code.id().to_lowercase(), code.name().to_lowercase())
}

/// The reference of all findings, as Markdown.
pub fn findings() -> String {
    let mut page = String::from(
        "# Findings\n\n\
         Every way in which PERMISSIVE to STRICT breaks that meshrollout knows, by its stable code. \
         Printed by `meshrollout docs findings`; a code is never reused.\n\n\
         *Block*: a person must act. *Hold*: wait and look again. *Warn*: worth a look, stops \
         nothing. *Inform*: good to know. The level here is the code's own; what was measured may \
         raise or lower it, and the finding says so.\n",
    );
    for (hundred, title, about) in GROUPS {
        // Writing to a string does not fail.
        let _ = write!(page, "\n## {hundred} {title}\n\n{about}\n");
        for code in Code::ALL.iter().filter(|code| code.id().starts_with(hundred)) {
            let _ = write!(
                page,
                "\n### {} {}\n\n*{}.* {}\n",
                code.id(),
                code.name(),
                capital(code.level().name()),
                code.doc()
            );
        }
    }
    page
}

/// The rights that `preflight`, `plan` and `tls-check` need on a live cluster, as an object that can
/// be applied: to list and to watch, and nothing else.
pub fn rights() -> String {
    let mut page = String::from(
        "# What preflight, plan and tls-check read of a live cluster, and nothing else. Printed by\n\
         # `meshrollout docs rights`. Bind it to whoever runs them.\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: ClusterRole\n\
         metadata:\n  name: meshrollout-preflight\n\
         rules:\n",
    );
    for (group, resources) in looked_at() {
        let resources = resources.into_iter().collect::<Vec<_>>().join(", ");
        let _ = write!(
            page,
            "- apiGroups: [{group:?}]\n  resources: [{resources}]\n  verbs: [list, watch]\n"
        );
    }
    page.push_str(
        "# What the authors of rollouts answer for, where meshrollout is installed.\n\
         - apiGroups: [\"meshrollout.dev\"]\n  resources: [meshrollouts]\n  verbs: [list]\n",
    );
    page
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_on_the_page_where_its_link_leads() {
        let page = findings();
        for code in Code::ALL {
            let heading = format!("\n### {} {}\n", code.id(), code.name());
            assert_eq!(page.matches(&heading).count(), 1, "{code}");
            let anchor = heading.trim().trim_start_matches("### ").to_lowercase().replace(' ', "-");
            assert!(finding_page(*code).ends_with(&format!("#{anchor}")), "{code}");
        }
    }
}
