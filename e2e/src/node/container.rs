use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext};
use kube::ResourceExt;

use super::environment::{self, Addresses};
use super::hosts::Hosts;
use super::image::Images;
use crate::pki::text;
use crate::process::Program;
use crate::{Doing, Error};

const SCRIPT: &str = include_str!("container.sh");

/// Names are looked up in `/etc/hosts` and nowhere else, and all lines of a name are its addresses.
const NAME_SERVICES: [(&str, &str); 2] =
    [("nsswitch.conf", "hosts: files\n"), ("host.conf", "multi on\n")];

/// What the containers of one pod share.
pub(super) struct Shared<'a> {
    pub(super) pod: &'a Pod,
    pub(super) folder: &'a Path,
    pub(super) volumes: &'a BTreeMap<String, PathBuf>,
    pub(super) hosts: &'a Hosts,
    /// A process in the pod's network namespace.
    pub(super) network: u32,
    pub(super) addresses: &'a Addresses,
}

/// How to run a container of the pod, as its spec says; the log is `NAME.log` in its own folder.
pub(super) fn program(
    shared: &Shared<'_>,
    container: &Container,
    images: &Images,
) -> Result<Program, Error> {
    let preparing = || format!("preparing {} of pod {}", container.name, shared.pod.name_any());
    let image = container.image.as_deref().unwrap_or_default();
    let Some(content) = images.content(image) else {
        return Err(Error::new(format!("{}: no image {image} on this node", preparing())));
    };
    let folder = folder(shared.folder, &container.name);
    let root = folder.join("root");
    std::fs::create_dir_all(&root).doing(preparing())?;
    let mut mounts = content.files;
    // The folder and not the file: what is mounted as a file could not be replaced by another.
    mounts.push((shared.hosts.folder().to_owned(), "/etc/names".to_owned()));
    for (name, text) in NAME_SERVICES {
        let file = folder.join(name);
        std::fs::write(&file, text).doing(preparing())?;
        mounts.push((file, format!("/etc/{name}")));
    }
    for mount in container.volume_mounts.iter().flatten() {
        let Some(volume) = shared.volumes.get(&mount.name) else {
            return Err(Error::new(format!("{}: there is no volume {}", preparing(), mount.name)));
        };
        mounts.push((volume.clone(), mount.mount_path.clone()));
    }
    // A mount within a mount comes after it.
    mounts.sort_by(|(_, one), (_, other)| one.cmp(other));
    let lines: String =
        mounts.iter().map(|(from, to)| format!("{}\t{to}\n", from.display())).collect();
    let list = folder.join("mounts");
    std::fs::write(&list, lines).doing(preparing())?;

    let variables = environment::of(shared.pod, container, shared.addresses).doing(preparing())?;
    let words = |words: &Option<Vec<String>>| -> Vec<String> {
        let words = words.iter().flatten();
        words.map(|word| environment::expanded(word, &variables)).collect()
    };
    let command = match words(&container.command) {
        command if command.is_empty() => vec![content.entry],
        command => command,
    };
    let (user, group) = identity(shared.pod, container);
    let settings = variables.iter().map(|(name, value)| format!("{name}={value}"));
    Ok(Program::new(&container.name, "nsenter".into(), &folder)
        .args([format!("--net=/proc/{}/ns/net", shared.network)])
        .args(["--", "unshare", "--mount", "--", "env", "-i"])
        .args(settings)
        .args(["sh", "-c", SCRIPT, "container"])
        .args([text(&root), text(&list), user.to_string(), group.to_string()])
        .args(command)
        .args(words(&container.args)))
}

/// The folder of one container within its pod's.
pub(super) fn folder(pod: &Path, container: &str) -> PathBuf {
    pod.join("containers").join(container)
}

fn identity(pod: &Pod, container: &Container) -> (i64, i64) {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let of_container = container.security_context.as_ref();
    let own = |field: fn(&SecurityContext) -> Option<i64>| of_container.and_then(field);
    let user = own(|it| it.run_as_user).or(of_pod.and_then(|it| it.run_as_user));
    let group = own(|it| it.run_as_group).or(of_pod.and_then(|it| it.run_as_group));
    (user.unwrap_or(0), group.unwrap_or(0))
}
