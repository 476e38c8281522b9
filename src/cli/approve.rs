//! `meshrollout approve`: a person's word that a stage may go STRICT.

use super::cluster::{Cluster, Error, doing, rollout};
use super::request::CLI_MANAGER;
use crate::api::{ApprovalPolicy, MeshApproval, MeshApprovalSpec, MeshRollout};
use kube::Api;
use kube::api::PostParams;

/// One stage of one rollout.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The MeshRollout.
    #[arg(value_name = "ROLLOUT")]
    name: String,
    /// The stage; without it the one whose turn it is.
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    #[command(flatten)]
    cluster: Cluster,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let client = args.cluster.client().await?;
    let name = &args.name;
    let rollout = rollout(&client, name).await?;
    let spec = approval(&rollout, args.stage.as_deref()).map_err(Error::Nothing)?;
    let MeshApprovalSpec { stage, plan_hash, .. } = spec.clone();
    // Equal for equal words: approving twice is approving once.
    let approval = MeshApproval::new(&format!("{name}-{stage}-{plan_hash}"), spec);
    let params = PostParams { field_manager: Some(CLI_MANAGER.into()), ..PostParams::default() };
    match Api::<MeshApproval>::all(client).create(&params, &approval).await {
        Ok(_) => {
            println!("stage {stage} of {name} is approved, as it is planned now ({plan_hash})");
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            println!("stage {stage} of {name} was approved already ({plan_hash})");
        }
        Err(error) => return Err(doing(format!("approving stage {stage} of {name}"))(error)),
    }
    Ok(())
}

/// What is to be approved: the plan as the operator has read it, and no other.
fn approval(rollout: &MeshRollout, stage: Option<&str>) -> Result<MeshApprovalSpec, String> {
    let name = rollout.metadata.name.clone().unwrap_or_default();
    let status = rollout.status.clone().unwrap_or_default();
    let (Some(plan_hash), true) =
        (status.plan_hash, status.observed_generation == rollout.metadata.generation)
    else {
        return Err(format!(
            "the operator has not read {name} as it is written now; look at it again, and approve then"
        ));
    };
    let stage = stage.map(str::to_owned).or(status.current_stage).ok_or_else(|| {
        format!("no stage of {name} has anything left to do; name one with --stage")
    })?;
    let Some(planned) = rollout.spec.stages.iter().find(|one| one.name == stage) else {
        let known: Vec<_> = rollout.spec.stages.iter().map(|one| one.name.as_str()).collect();
        return Err(format!("{name} has no stage {stage:?}; it has {}", known.join(", ")));
    };
    if planned.approval == ApprovalPolicy::Automatic {
        return Err(format!("stage {stage} of {name} waits for no approval"));
    }
    Ok(MeshApprovalSpec { rollout: name, stage, plan_hash })
}
