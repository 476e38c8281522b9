use std::path::{Path, PathBuf};

use crate::tools::Tools;

/// A container image, as far as a test needs one: a program under a name.
#[derive(Clone, Debug)]
pub struct Image {
    /// As in a container's `image`, without registry and tag: `load` for `example.com/load:1`.
    pub name: String,
    /// What runs, with the `args` of the container.
    pub program: PathBuf,
}

/// What a container finds of its image.
pub(super) struct Content {
    /// The program, by its path within the container.
    pub(super) entry: String,
    /// Files of this machine and where the container finds them.
    pub(super) files: Vec<(PathBuf, String)>,
}

/// The images that a node knows.
pub(super) struct Images {
    tools: Tools,
    given: Vec<Image>,
}

impl Images {
    pub(super) fn new(tools: Tools, given: Vec<Image>) -> Self {
        Self { tools, given }
    }

    /// `None` for an image that is not known here.
    pub(super) fn content(&self, image: &str) -> Option<Content> {
        match name(image) {
            // The files are where Istio's own image has them, so that no flag need differ.
            "proxyv2" => Some(Content {
                entry: "/usr/local/bin/pilot-agent".to_owned(),
                files: [
                    ("pilot-agent", "/usr/local/bin/pilot-agent"),
                    ("envoy", "/usr/local/bin/envoy"),
                    ("envoy_bootstrap.json", "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json"),
                ]
                .into_iter()
                .map(|(tool, path)| (self.tools.program(tool), path.to_owned()))
                .collect(),
            }),
            "echo" => Some(one("echo", &self.tools.program("echo"))),
            other => {
                let given = self.given.iter().find(|given| given.name == other)?;
                Some(one(&given.name, &given.program))
            }
        }
    }
}

fn one(name: &str, program: &Path) -> Content {
    let entry = format!("/usr/local/bin/{name}");
    Content { files: vec![(program.to_owned(), entry.clone())], entry }
}

fn name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split([':', '@']).next().unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_tag_and_digest_are_no_part_of_the_name() {
        for image in ["proxyv2", "hub:5000/istio/proxyv2:1.31", "istio/proxyv2@sha256:00"] {
            assert_eq!(name(image), "proxyv2");
        }
    }
}
