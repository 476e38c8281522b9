//! Bugs planted in a copy of the program, every gate taken out among them, each of which the
//! schedules, the kills or another of these tests must find: a test of the tests.
//!
//! HUNT=1          plants them all; else only their places are looked for
//! BUG=words       those alone whose name holds these words
//! HUNTS=4         so many hunted side by side

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Instant;

/// A bug, where it goes, and which test finds it.
struct Bug {
    name: &'static str,
    file: &'static str,
    find: &'static str,
    replace: &'static str,
    found_by: FoundBy,
}

#[derive(Clone, Copy, Debug)]
enum FoundBy {
    /// `faults`, in the group of this seed.
    Seed(u64),
    /// The kills at each write of a policy.
    Kills,
    /// All tests of a module.
    Module(&'static str),
    /// One test, which must complain in these words: a failure for another reason has
    /// found something else.
    Test(&'static str, &'static str),
}

use FoundBy::{Kills, Module, Seed, Test};

const BUGS: [Bug; 31] = [
    Bug {
        name: "forces its fields over another's",
        file: "src/apply.rs",
        find: "force: how == Try::Forced,",
        replace: "force: how != Try::Dry,",
        found_by: Seed(0),
    },
    Bug {
        name: "writes without a deadline at the apiserver",
        file: "src/apply.rs",
        find: "format!(\"{}{sign}timeout={limit}s\", request.uri().to_string().trim_end_matches('?'));",
        replace: "{ let _ = (sign, limit); request.uri().to_string() };",
        found_by: Seed(0),
    },
    Bug {
        name: "does not try the way back",
        file: "src/apply.rs",
        find: "let tried = self.only_try(&clearance.way_back(), stamp.as_ref()).await;",
        replace: "let tried = Ok::<(), Outcome>(drop(stamp));",
        found_by: Seed(0),
    },
    Bug {
        name: "tries the way back in earnest",
        file: "src/apply.rs",
        find: "dry_run: how == Try::Dry,",
        replace: "dry_run: false,",
        found_by: Seed(0),
    },
    Bug {
        name: "takes a lost reply for an answer",
        file: "src/apply.rs",
        find: "Ok(Err(error)) => Err(Outcome::Unanswered(error.to_string())),",
        replace: "Ok(Err(_)) => Ok(()),",
        found_by: Seed(16),
    },
    Bug {
        name: "updates whatever version stands there",
        file: "src/manifest.rs",
        find: "metadata[\"resourceVersion\"] = json!(version);",
        replace: "let _ = version;",
        found_by: Seed(0),
    },
    Bug {
        name: "updates whatever object stands there",
        file: "src/manifest.rs",
        find: "metadata[\"uid\"] = json!(uid.as_str());",
        replace: "let _ = uid;",
        found_by: Seed(0),
    },
    Bug {
        name: "pins whatever stands there",
        file: "src/manifest.rs",
        find: "None => metadata[\"resourceVersion\"] = json!(NOTHING_STANDS),",
        replace: "None => drop(NOTHING_STANDS),",
        found_by: Seed(0),
    },
    Bug {
        name: "writes STRICT without the time of its evidence",
        file: "src/manifest.rs",
        find: "annotate(note::EVIDENCE_TIME, clearance.evidence_at().to_string());",
        replace: "",
        found_by: Seed(0),
    },
    Bug {
        name: "forgets on the policy that it was rolled back",
        file: "src/translate/ours.rs",
        find: "notes.push((name::ROLLED_BACK_AT, at.to_string()));",
        replace: "let _ = at;",
        found_by: Seed(0),
    },
    Bug {
        name: "does not read the mark of a rollback",
        file: "src/translate/ours.rs",
        find: "Some(RolledBack { at, because: because.unwrap_or_default().to_owned() })",
        replace: "Some((at, because)).and(None)",
        found_by: Seed(0),
    },
    Bug {
        name: "does not read when STRICT began",
        file: "src/translate/ours.rs",
        find: "strict_since: time(name::STRICT_SINCE)?,",
        replace: "strict_since: None,",
        found_by: Seed(0),
    },
    Bug {
        name: "does not come back after a report that failed",
        file: "src/controller.rs",
        find: "tracing::warn!(%error, rollout = name, \"not all of it could be told yet\");",
        replace: "{ let _ = error; return Ok(controller::Action::await_change()); }",
        found_by: Seed(0),
    },
    Bug {
        name: "asks for the Lease once",
        file: "src/lease.rs",
        find: "tokio::time::sleep(self.retry).await;",
        replace: "std::future::pending::<()>().await;",
        found_by: Kills,
    },
    Bug {
        name: "decides to write on what the watches say",
        file: "src/controller/visit.rs",
        find: "let read = self.objects.quorum(&self.client, namespace, now, Arc::clone(telemetry));",
        replace: "let read = std::future::ready(Ok::<Snapshot, crate::observe::objects::ReadError>(self.objects.snapshot(now, Arc::clone(telemetry))));",
        found_by: Seed(0),
    },
    Bug {
        name: "takes what the watches say for what it read again",
        file: "src/controller/visit.rs",
        find: "let read = self.objects.quorum(&self.client, namespace, now, Arc::clone(telemetry));",
        replace: "let watched = self.objects.snapshot(now, Arc::clone(telemetry)); let source = meshrollout_core::snapshot::Source::Quorum; let read = std::future::ready(Ok::<Snapshot, crate::observe::objects::ReadError>(Snapshot { source, ..watched }));",
        found_by: Module("stale"),
    },
    Bug {
        name: "does not read its own definitions again",
        file: "src/observe/objects.rs",
        find: "let foreign = fresh.differing(api::fingerprints());",
        replace: "let foreign: Vec<String> = vec![];",
        found_by: Test("no_strict_on_old_truth", "under definitions of another version"),
    },
    Bug {
        name: "goes forward where no fence is in force",
        file: "src/apply.rs",
        find: "if self.tries_fence {",
        replace: "if false {",
        found_by: Test("an_epoch_never_falls_behind", "reigns to be WriteRefused"),
    },
    Bug {
        name: "lets a STRICT without an answer arrive later",
        file: "src/controller/visit.rs",
        find: "self.leadership.spend_reign();",
        replace: "",
        found_by: Module("conflicts"),
    },
    Bug {
        name: "does not know what it wrote itself",
        file: "src/controller/visit.rs",
        find: "self.objects.has_read(policy);",
        replace: "let _ = policy;",
        found_by: Module("stale"),
    },
    Bug {
        name: "does not follow a kind again after its watch failed",
        file: "src/observe/objects/watch.rs",
        find: "tokio::time::sleep(backoff.next().unwrap_or(last_delay)).await;",
        replace: "let _ = (backoff.next(), last_delay); std::future::pending::<()>().await;",
        found_by: Seed(0),
    },
    Bug {
        name: "waits for the metrics source for ever",
        file: "src/observe/prometheus.rs",
        find: "tokio::time::timeout(limit, self.exchange(path, form))",
        replace: "tokio::time::timeout(limit * 1000, self.exchange(path, form))",
        found_by: Seed(0),
    },
    Bug {
        name: "has no gate Injection",
        file: "src/core/gate.rs",
        find: "Self::Injection => injection::examine(context),",
        replace: "Self::Injection => { let _ = injection::examine; vec![] }",
        found_by: Test("a_pod_without_a_sidecar_holds", "for MR0101 in bare"),
    },
    Bug {
        name: "has no gate Plaintext",
        file: "src/core/gate.rs",
        find: "Self::Plaintext => plaintext::examine(context),",
        replace: "Self::Plaintext => { let _ = plaintext::examine; vec![] }",
        found_by: Test("a_meshed_caller_in_plaintext", "for MR0203 in basket"),
    },
    Bug {
        name: "has no gate Telemetry",
        file: "src/core/gate.rs",
        find: "Self::Telemetry => telemetry::examine(context),",
        replace: "Self::Telemetry => { let _ = telemetry::examine; vec![] }",
        found_by: Test("whatever_cannot_be_seen", "to be told as MR0301"),
    },
    Bug {
        name: "has no gate DestinationRules",
        file: "src/core/gate.rs",
        find: "Self::DestinationRules => destination_rule::examine(context),",
        replace: "Self::DestinationRules => { let _ = destination_rule::examine; vec![] }",
        found_by: Test("a_rule_that_disables_tls", "for MR0401 in by-client"),
    },
    Bug {
        name: "has no gate Policies",
        file: "src/core/gate.rs",
        find: "Self::Policies => policy::examine(context),",
        replace: "Self::Policies => { let _ = policy::examine; vec![] }",
        found_by: Test("a_namespace_wide_policy_of_someone_else", "for MR05"),
    },
    Bug {
        name: "has no gate Certificates",
        file: "src/core/gate.rs",
        find: "Self::Certificates => certificate::examine(context),",
        replace: "Self::Certificates => { let _ = certificate::examine; vec![] }",
        found_by: Test("a_certificate_near_its_end", "for MR0601 in expiring"),
    },
    Bug {
        name: "has no gate Proxies",
        file: "src/core/gate.rs",
        find: "Self::Proxies => proxy::examine(context),",
        replace: "Self::Proxies => { let _ = proxy::examine; vec![] }",
        found_by: Test("whatever_cannot_be_seen", "to be told as MR0802"),
    },
    Bug {
        name: "has no gate Exposure",
        file: "src/core/gate.rs",
        find: "Self::Exposure => exposure::examine(context),",
        replace: "Self::Exposure => { let _ = exposure::examine; vec![] }",
        found_by: Test("a_webhook_that_is_served_in_scope", "for MR0701 in admitting"),
    },
    Bug {
        name: "has no gate RefusalSignal",
        file: "src/core/gate.rs",
        find: "Self::RefusalSignal => refusal_signal::examine(context),",
        replace: "Self::RefusalSignal => { let _ = refusal_signal::examine; vec![] }",
        found_by: Test("where_nothing_would_show_harm", "the missing signal"),
    },
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn ran(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it).into_owned()).join("\n")
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A copy of what the program is built from, in a folder that the next hunt finds again: what is
/// built there is built once.
fn copied(folder: &Path) -> PathBuf {
    let tree = folder.join("tree");
    std::fs::create_dir_all(&tree).unwrap();
    let listed = ran(Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]));
    for file in String::from_utf8(listed.stdout).unwrap().split('\0').filter(|it| !it.is_empty()) {
        let (from, to) = (root().join(file), tree.join(file));
        let Ok(text) = std::fs::read(&from) else { continue };
        // Left as it is where it is the same: cargo goes by the time of change.
        if std::fs::read(&to).ok().as_ref() != Some(&text) {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(&to, text).unwrap();
        }
    }
    tree
}

/// The program with this bug in it.
fn built(folder: &Path, tree: &Path, number: usize, bug: &Bug) -> PathBuf {
    let file = tree.join(bug.file);
    println!("planting \"{}\"", bug.name);
    let whole = std::fs::read_to_string(&file).unwrap();
    assert_eq!(whole.matches(bug.find).count(), 1, "{}", bug.name);
    std::fs::write(&file, whole.replacen(bug.find, bug.replace, 1)).unwrap();
    let built = std::panic::catch_unwind(|| as_it_is(folder, tree));
    // Whatever happened, the next hunt finds the copy sound.
    std::fs::write(&file, whole).unwrap();
    let kept = folder.join(format!("meshrollout-{number}"));
    std::fs::copy(built.expect(bug.name), &kept).unwrap();
    kept
}

/// Built from the copy as it stands.
fn as_it_is(folder: &Path, tree: &Path) -> PathBuf {
    let target = folder.join("target");
    let output = ran(cargo()
        .args(["build", "--quiet", "--package=meshrollout", "--bin=meshrollout", "--target-dir"])
        .arg(&target)
        // Two dozen programs that each run once: built soon rather than well.
        .envs([("CARGO_PROFILE_DEV_OPT_LEVEL", "0"), ("CARGO_INCREMENTAL", "1")])
        .current_dir(tree));
    assert!(output.status.success(), "{}", told(&output));
    target.join("debug/meshrollout")
}

/// One test run on one program: on the sound one where no bug is named.
struct Hunt {
    program: PathBuf,
    found_by: FoundBy,
    bug: Option<&'static Bug>,
}

impl Hunt {
    fn name(&self) -> &'static str {
        self.bug.map_or("nothing", |bug| bug.name)
    }

    /// Whether the test passes or fails as it should, and all that it says.
    fn run(&self) -> (bool, String) {
        let mut test = cargo();
        test.args(["test", "--quiet", "--workspace", "--test=scenarios", "--"]);
        match self.found_by {
            Seed(seed) => test.arg("faults::").env("SEED", seed.to_string()),
            Kills => test.arg("kills::").env("ONLY", "policies"),
            Module(name) => test.arg(format!("{name}::")),
            Test(name, _) => test.arg(name),
        };
        test.current_dir(root());
        test.env("MESHROLLOUT", &self.program).env("CLUSTERS", "1").env("LIMIT", "150");
        let output = ran(&mut test);
        let told = told(&output);
        // A test that could not run has found nothing.
        let failed = !output.status.success() && told.contains("test result: FAILED");
        let right = match (self.bug, self.found_by) {
            (Some(_), Test(_, says)) => failed && told.contains(says),
            (Some(_), _) => failed,
            (None, _) => output.status.success(),
        };
        (right, told)
    }
}

#[test]
fn every_bug_has_its_one_place_and_is_found_when_hunted() {
    assert!(BUGS.len() >= 12);
    for bug in &BUGS {
        let text = std::fs::read_to_string(root().join(bug.file)).unwrap();
        assert_eq!(text.matches(bug.find).count(), 1, "{}: {}", bug.file, bug.name);
    }
    if std::env::var("HUNT").as_deref() != Ok("1") {
        println!("{} bugs can be planted; make test-planted hunts them", BUGS.len());
        return;
    }
    let begin = Instant::now();
    let target = std::env::current_exe().unwrap();
    let folder = target.ancestors().nth(3).unwrap().join("planted");
    let tree = copied(&folder);
    let only = std::env::var("BUG").ok();
    let all = BUGS.iter().enumerate();
    let bugs = all.filter(|(_, bug)| only.as_deref().is_none_or(|only| bug.name.contains(only)));
    let mut queue: VecDeque<_> = bugs
        .map(|(number, bug)| Hunt {
            program: built(&folder, &tree, number, bug),
            found_by: bug.found_by,
            bug: Some(bug),
        })
        .collect();
    // A test that fails without a bug finds none: the same ones pass on the program as it is.
    let sound = folder.join("meshrollout-sound");
    std::fs::copy(as_it_is(&folder, &tree), &sound).unwrap();
    for found_by in [Seed(0), Seed(16), Kills, Module("stale"), Module("conflicts")] {
        if only.is_none() {
            queue.push_front(Hunt { program: sound.clone(), found_by, bug: None });
        }
    }
    println!("{} programs ready after {} s", queue.len(), begin.elapsed().as_secs());
    let hunts = std::env::var("HUNTS").ok().and_then(|it| it.parse().ok()).unwrap_or(4);
    let (queue, wrong) = (Mutex::new(queue), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..hunts {
            scope.spawn(|| {
                loop {
                    let Some(hunt) = queue.lock().unwrap().pop_front() else { return };
                    let begin = Instant::now();
                    let (right, told) = hunt.run();
                    let name = hunt.name();
                    println!(
                        "{}: \"{name}\" by {:?} after {} s",
                        if right { "as it should be" } else { "WRONG" },
                        hunt.found_by,
                        begin.elapsed().as_secs(),
                    );
                    let file = format!("{name} by {:?}.txt", hunt.found_by).replace('"', "");
                    std::fs::write(folder.join(file), &told).unwrap();
                    if !right {
                        wrong.lock().unwrap().push(format!("{name}\n{told}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    println!(
        "all hunted in {} s; what each said is in {}",
        begin.elapsed().as_secs(),
        folder.display()
    );
    assert!(wrong.is_empty(), "not found, or found where nothing is: {}", wrong.join("\n\n"));
}
