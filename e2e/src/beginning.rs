//! What every cluster begins with: an etcd that holds what an apiserver makes for itself at its
//! first start, and the definitions of Istio's kinds, and mostly of ours. To take those up one by
//! one costs an apiserver as much as to start, and dozens are started; so it is done once, and the
//! data are kept.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::Value;
use tokio::process::Command;

use crate::apply::Applier;
use crate::cluster::{apiserver_ready, client_config};
use crate::control_plane::{self, Addresses};
use crate::pki::Pki;
use crate::ports::Ports;
use crate::run_folder::RunFolder;
use crate::tools::{Tools, cache_folder};
use crate::{Doing, Error, until};

const LIMIT: Duration = Duration::from_secs(60);

/// How the data are made, down to the programs' options.
const RECIPE: [&str; 2] = [include_str!("beginning.rs"), include_str!("control_plane.rs")];

/// Puts the data there for the etcd of a new cluster; the first one of all makes them.
pub(crate) async fn lay(tools: &Tools, definitions: &[Value], data: &Path) -> Result<(), Error> {
    let kept = place(tools, definitions)?;
    if !kept.exists() {
        let locking = || format!("locking {}", kept.display());
        std::fs::create_dir_all(cache_folder()).doing("making the cache")?;
        // Who comes meanwhile waits, and finds them. The lock goes with the file, however we end.
        let lock = File::create(kept.with_extension("lock")).doing(locking())?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
        let _lock = lock.await.doing(locking())?.doing(locking())?;
        if !kept.exists() {
            make(tools, definitions, &kept).await.doing(format!("making {}", kept.display()))?;
        }
    }
    copy(&kept, data).await
}

/// Other programs, other definitions and another way to bring them together make other data.
fn place(tools: &Tools, definitions: &[Value]) -> Result<PathBuf, Error> {
    let mut hasher = DefaultHasher::new();
    RECIPE.hash(&mut hasher);
    for program in ["etcd", "kube-apiserver"] {
        let found = std::fs::metadata(tools.program(program));
        let found = found.doing(format!("looking at {program}"))?;
        (found.len(), found.modified().ok()).hash(&mut hasher);
    }
    for definition in definitions {
        definition.to_string().hash(&mut hasher);
    }
    Ok(cache_folder().join(format!("etcd-{:016x}", hasher.finish())))
}

async fn make(tools: &Tools, definitions: &[Value], kept: &Path) -> Result<(), Error> {
    let mut ports = Ports::reserve()?;
    let run = RunFolder::create(false)?;
    let folder = run.path();
    let at = Addresses::take(&mut ports)?;
    let pki = Pki::create(folder.join("pki"))?;
    let etcd = control_plane::etcd(tools, folder, &at).start()?;
    let apiserver = control_plane::apiserver(tools, folder, &pki, &at)?.start()?;
    let admin = pki.kubeconfig(&at.server(), "admin", Some("system:masters"))?;
    let client = Client::try_from(client_config(&admin).await?).doing("making a client")?;
    let mut processes = vec![etcd, apiserver];
    apiserver_ready(&client, &mut processes).await?;
    // As whoever installs them later will: that changes nothing then.
    Applier::new(client.clone()).apply(definitions).await?;
    let stored = Api::<CustomResourceDefinition>::all(client);
    until("the definitions to be established", LIMIT, async || {
        let all = stored.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        match all.items.iter().filter(|one| !is_established(one)).count() {
            0 => Ok(()),
            count => Err(format!("{count} of {} are not", all.items.len())),
        }
    })
    .await?;
    // The apiserver first, which would complain of an etcd that is gone, and writes until it ends.
    while let Some(mut process) = processes.pop() {
        process.ask_to_end();
        let ended = until("it to end", LIMIT, async || match process.ended() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        match ended.await {
            Ok(status) if as_asked(status) => {}
            Ok(status) => return Err(process.blame(&format!("ended with {status}"))),
            Err(error) => return Err(process.blame(&error.to_string())),
        }
    }
    // There is one that makes them, so that what lies here is of one that did not end well.
    let new = kept.with_extension("new");
    if new.exists() {
        std::fs::remove_dir_all(&new).doing(format!("clearing {}", new.display()))?;
    }
    copy(&folder.join(control_plane::ETCD), &new).await?;
    std::fs::rename(&new, kept).doing("giving it its name")
}

/// etcd hands the signal on to itself when it is done.
fn as_asked(status: ExitStatus) -> bool {
    const TERM: i32 = 15;
    status.success() || status.signal() == Some(TERM)
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one.type_ == "Established" && one.status == "True")
}

/// Without the sixty megabytes that etcd keeps free for its log; whoever may read the cache may
/// read the data.
async fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let copying = || format!("copying {} to {}", from.display(), to.display());
    let mut cp = Command::new("cp");
    cp.args(["-r", "--sparse=always", "--no-preserve=mode", "--"]).args([from, to]);
    let copied = cp.output().await.doing(copying())?;
    match copied.status.success() {
        true => Ok(()),
        false => Err(Error::new(String::from_utf8_lossy(&copied.stderr).into_owned())),
    }
}
