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
    /// The plan that was looked at, as status and `explain` name it; refused when it is another now.
    #[arg(long, value_name = "HASH")]
    plan: Option<String>,
    #[command(flatten)]
    cluster: Cluster,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let client = args.cluster.client().await?;
    let name = &args.name;
    let rollout = rollout(&client, name).await?;
    let spec =
        approval(&rollout, args.stage.as_deref(), args.plan.as_deref()).map_err(Error::Nothing)?;
    let MeshApprovalSpec { stage, rollout_uid, plan_hash, .. } = &spec;
    // Equal for equal words: approving twice is approving once.
    let of = rollout_uid.get(..8).unwrap_or(rollout_uid);
    let object = format!("{name}-{stage}-{plan_hash}-{of}");
    let approval = MeshApproval::new(&object, spec.clone());
    let params = PostParams { field_manager: Some(CLI_MANAGER.into()), ..PostParams::default() };
    let approvals = Api::<MeshApproval>::all(client);
    let trying = || format!("approving stage {stage} of {name}");
    match approvals.create(&params, &approval).await {
        Ok(_) => {
            println!("stage {stage} of {name} is approved, as it is planned now ({plan_hash})");
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let stands = approvals.get(&object).await.map_err(doing(trying()))?;
            if stands.spec != spec {
                return Err(Error::Nothing(format!(
                    "MeshApproval {object} is of something else; kubectl delete meshapproval {object}, and approve again"
                )));
            }
            println!("stage {stage} of {name} was approved already ({plan_hash})");
        }
        Err(error) => return Err(doing(trying())(error)),
    }
    Ok(())
}

/// What is to be approved: the plan as the operator has read it, and no other.
fn approval(
    rollout: &MeshRollout,
    stage: Option<&str>,
    plan: Option<&str>,
) -> Result<MeshApprovalSpec, String> {
    let name = rollout.metadata.name.clone().unwrap_or_default();
    let status = rollout.status.clone().unwrap_or_default();
    let is_current = status.observed_generation == rollout.metadata.generation;
    // The plan of a refused spec is an earlier one, or only a part of what is written.
    let accepted = status.conditions.iter().find(|one| one.type_ == "Accepted");
    if let Some(refused) = accepted.filter(|one| is_current && one.status == "False") {
        return Err(format!("{name} is not accepted: {}", refused.message));
    }
    let (Some(plan_hash), true) = (status.plan_hash, is_current) else {
        return Err(format!(
            "the operator has not read {name} as it is written now; look at it again, and approve then"
        ));
    };
    if let Some(seen) = plan.filter(|seen| *seen != plan_hash) {
        return Err(format!(
            "{name} was edited: the plan is {plan_hash} now, not {seen}; look at it again, and approve then"
        ));
    }
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
    let rollout_uid = rollout.metadata.uid.clone().unwrap_or_default();
    Ok(MeshApprovalSpec { rollout: name, rollout_uid, stage, plan_hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn asked(change: impl FnOnce(&mut Value)) -> Result<MeshApprovalSpec, String> {
        let mut object = json!({
            "apiVersion": "meshrollout.dev/v1alpha1", "kind": "MeshRollout",
            "metadata": {"name": "shop", "uid": "1", "generation": 6},
            "spec": {"stages": [
                {"name": "core", "namespaces": ["pay"], "approval": "Required"},
            ]},
            "status": {"observedGeneration": 6, "planHash": "abc", "currentStage": "core",
                "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted",
                    "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        change(&mut object);
        approval(&serde_json::from_value(object).unwrap(), None, None)
    }

    #[test]
    fn a_plan_is_approved_that_the_operator_has_read_and_accepted_as_it_is_written() {
        let approved = asked(|_| ()).unwrap();
        assert_eq!((&*approved.stage, &*approved.plan_hash), ("core", "abc"));
        let behind = asked(|it| it["metadata"]["generation"] = json!(7)).unwrap_err();
        assert!(behind.contains("has not read shop as it is written now"), "{behind}");
        let refused = asked(|it| {
            let accepted = &mut it["status"]["conditions"][0];
            accepted["status"] = json!("False");
            accepted["message"] = json!("spec.stages[1]: this operator cannot read it");
        });
        let refused = refused.unwrap_err();
        let mended = asked(|it| {
            it["status"]["conditions"][0]["status"] = json!("False");
            it["metadata"]["generation"] = json!(7);
        });
        assert_eq!(mended.unwrap_err(), behind);
        assert_eq!(refused, "shop is not accepted: spec.stages[1]: this operator cannot read it");
    }
}
