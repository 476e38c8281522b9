//! `meshrollout rollback`: for the person who was paged. Writes by itself, with the operator up or
//! down; needs neither metrics nor status, only the notes on the policies.

use super::cluster::{Cluster, Error, doing};
use super::request::ask;
use super::{exit, fail};
use crate::api::names::request;
use crate::apply::{Leave, Outcome, Writer};
use crate::fence::Stamp;
use crate::istio::PeerAuthentication;
use crate::translate;
use jiff::SignedDuration;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use meshrollout_core::decide::step_back;
use meshrollout_core::finding::{Code, Finding, Level, Subject};
use meshrollout_core::mode::Mode;
use std::process::ExitCode;

/// Put back PERMISSIVE where a rollout wrote STRICT, now.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The MeshRollout; it need not exist any more.
    #[arg(value_name = "ROLLOUT")]
    name: String,
    /// Only in these namespaces; without one, everywhere.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

/// Longer than the operator's: a person waits, and nobody else is to be kept out.
const DEADLINE: SignedDuration = SignedDuration::from_secs(15);

/// Against another writer at the same object, the operator most likely.
const TRIES: usize = 5;

pub(super) async fn run(args: Args) -> ExitCode {
    match roll_back(&args).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(exit::FINDINGS),
        Err(error @ Error::Nothing(_)) => fail(exit::BAD_INPUT, &error),
        Err(error) => fail(exit::UNREACHABLE, &error),
    }
}

/// How many could not be rolled back.
async fn roll_back(args: &Args) -> Result<usize, Error> {
    let config = args.cluster.config().await?;
    let writer = Writer::new(&config, DEADLINE).map_err(Error::Client)?.of_a_person();
    let client = Client::try_from(config).map_err(Error::Client)?;
    if args.namespace.is_empty() {
        // So that the operator does not go on with what is not STRICT yet. The policies matter more.
        if let Err(error) = ask(&client, &args.name, request::ROLLBACK).await {
            fail(exit::UNREACHABLE, &error);
            eprintln!("the rollout itself could not be told to stop; going on with its policies");
        }
    }
    let policies = Api::<PeerAuthentication>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(doing("listing PeerAuthentications"))?;
    let chosen = |policy: &&PeerAuthentication| {
        let namespace = policy.namespace().unwrap_or_default();
        // By the notes, not by the label, which others may change.
        let ours = translate::ours::read(&policy.metadata);
        ours.is_some_and(|ours| ours.rollout == args.name)
            && (args.namespace.is_empty() || args.namespace.contains(&namespace))
    };
    let policies: Vec<_> = policies.items.iter().filter(chosen).collect();
    if policies.is_empty() {
        return Err(Error::Nothing(format!("no policy of rollout {} stands there", args.name)));
    }
    let mut failures = 0;
    for policy in policies {
        let namespace = policy.namespace().unwrap_or_default();
        match one(&client, &writer, policy.clone()).await {
            Ok(said) => println!("{namespace}: {said}"),
            Err(why) => {
                failures += 1;
                eprintln!("{namespace}: NOT rolled back: {why}");
                eprintln!(
                    "  by hand: kubectl patch peerauthentication {} -n {namespace} --type=merge -p '{{\"spec\":{{\"mtls\":{{\"mode\":\"PERMISSIVE\"}}}}}}'",
                    policy.name_any()
                );
            }
        }
    }
    Ok(failures)
}

async fn one(
    client: &Client,
    writer: &Writer,
    mut object: PeerAuthentication,
) -> Result<String, String> {
    let namespace = object.namespace().unwrap_or_default();
    let mut last = String::new();
    for _ in 0..TRIES {
        let policy = translate::policy(&object);
        // A pin gets the mark too: a STRICT on its way meets another version then, and fails.
        let marked = policy.ours.as_ref().is_some_and(|ours| ours.rolled_back.is_some());
        let stands = policy.mode_we_wrote() == Some(Mode::Permissive) && !policy.has_drifted();
        if marked && stands {
            return Ok("PERMISSIVE, rolled back before".into());
        }
        let asked = Finding::new(
            Code::HarmAfterStrict,
            Subject::namespace(&policy.namespace),
            "a person asked to step back",
        )
        .at(Level::Inform);
        let action = step_back(&policy.namespace, &policy, asked)
            .ok_or("the notes on it are not whole, so it is not known to be ours")?;
        // The fence is for replicas; what the last of them left on the policy stays there.
        let stamp = Stamp::read(object.annotations());
        let leave = async || Leave::Unsure(stamp.clone(), "written by a person".into());
        match writer.perform(&action, leave).await {
            Outcome::Done => return Ok("PERMISSIVE again".into()),
            refused @ (Outcome::NotSent(_)
            | Outcome::Refused(_)
            | Outcome::Fenced(_)
            | Outcome::NoFence
            | Outcome::NoWayBack(_)
            | Outcome::Untried(_)) => return Err(refused.why().into()),
            Outcome::Conflict(why) | Outcome::Unanswered(why) => last = why,
        }
        let policies = Api::<PeerAuthentication>::namespaced(client.clone(), &namespace);
        object = policies.get(&policy.name).await.map_err(|error| error.to_string())?;
    }
    Err(last)
}
