//! Work by a schedule: whom a CronJob names, and for how long at most it is not there to be seen.
//!
//! Source: `istio-semantics.md` F19; Kubernetes' schedules are those of `robfig/cron`, standard
//! parser.

use super::namespace;
use super::pod::template;
use crate::kubernetes::{CronJob, PodTemplate};
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::exposure::{Caller, Dialled, Entrance, Scheduled};
use meshrollout_core::finding::Subject;
use meshrollout_core::ident::{Namespace, Port};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// As many hosts of one CronJob are followed; its words are anybody's to write.
const HOSTS: usize = 64;

/// The words by which containers are told whom to call.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Words {
    containers: Option<Vec<ContainerWords>>,
    init_containers: Option<Vec<ContainerWords>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerWords {
    command: Option<Vec<String>>,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Variable {
    value: Option<String>,
}

/// Where a CronJob would call, by the words of its containers. What it reads from ConfigMaps,
/// Secrets or its image is not seen.
pub fn scheduled(object: &CronJob) -> Vec<Entrance> {
    let own = namespace(&object.metadata);
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let pod = &object.spec.job_template.spec.template;
    let words = Words::deserialize(&pod["spec"]).unwrap_or_default();
    let containers = words.containers.into_iter().chain(words.init_containers).flatten();
    let words = containers.flat_map(|one| {
        let env = one.env.into_iter().flatten().filter_map(|variable| variable.value);
        one.command.into_iter().chain(one.args).flatten().chain(env)
    });
    let hosts: BTreeSet<_> = words.flat_map(|word| hosts(&word, &own)).take(HOSTS).collect();
    // Each run is an event: what names nobody costs no calculation.
    if hosts.is_empty() {
        return vec![];
    }
    let runs = object.spec.suspend != Some(true);
    let caller = Caller::Scheduled(Arc::new(Scheduled {
        rests: runs.then(|| longest_rest(&object.spec.schedule)).flatten(),
        template: template(&PodTemplate::deserialize(pod).unwrap_or_default()),
    }));
    let entrance = |(namespace, service, port): (Namespace, String, Option<Port>)| Entrance {
        caller: caller.clone(),
        declared_by: Subject::new("CronJob", &own, name),
        detail: String::new(),
        namespace,
        service,
        port: port.map_or(Dialled::Any, Dialled::Number),
    };
    hosts.into_iter().map(entrance).collect()
}

/// The Services that a text may mean: by their name, where it stands alone in their own namespace,
/// or with that of their namespace.
fn hosts(text: &str, own: &Namespace) -> Vec<(Namespace, String, Option<Port>)> {
    let ends = |letter: char| !letter.is_ascii_alphanumeric() && !".-:".contains(letter);
    let of = |word: &str| {
        let (host, port) = match word.split_once(':') {
            // A scheme, a user: no host is followed by a word.
            Some((host, port)) => (host, Some(Port(port.parse().ok()?))),
            None => (word, None),
        };
        let labels: Vec<&str> = host.split('.').collect();
        let is_label = |label: &&str| {
            label.starts_with(|letter: char| letter.is_ascii_lowercase())
                && !label.contains(|letter: char| letter.is_ascii_uppercase())
        };
        let (service, namespace) = match labels.as_slice() {
            [service] => (*service, own.as_str()),
            // A pod of a headless Service has a name of its own before it.
            [_, service, namespace, "svc", ..] | [_, service, namespace] => (*service, *namespace),
            _ => return None,
        };
        [service, namespace].iter().all(is_label).then(|| (namespace.into(), service.into(), port))
    };
    // The same words, read as a Service and its namespace.
    let short = |word: &str| {
        let host = word.split(':').next().unwrap_or_default();
        let labels: Vec<&str> = host.split('.').collect();
        let is_short = labels.len() == 2 || labels.get(2) == Some(&"svc");
        is_short.then(|| of(&format!("of.{word}"))).flatten()
    };
    text.split(ends).flat_map(|word| [of(word), short(word)]).flatten().collect()
}

/// The longest time between two runs; `None` where it never runs, or it cannot be told when.
///
/// A day on which it runs has the same times as every other, so that it is enough to look at one
/// day closely, and at each day's end for the next. In UTC: other zones shift it by an hour, twice
/// a year.
fn longest_rest(schedule: &str) -> Option<SignedDuration> {
    /// A Thursday, the first day of its year.
    const BEGIN: i64 = 1_767_225_600;
    const DAY: i64 = 24 * 3600;
    /// As many days are looked at: a year's rest is the longest of most.
    const DAYS: i64 = 400;
    let schedule = match schedule.trim() {
        "@yearly" | "@annually" => "0 0 1 1 *".to_owned(),
        "@monthly" => "0 0 1 * *".to_owned(),
        "@weekly" => "0 0 * * 0".to_owned(),
        "@daily" | "@midnight" => "0 0 * * *".to_owned(),
        "@hourly" => "0 * * * *".to_owned(),
        other => match other.strip_prefix("@every ") {
            Some(rest) => return rest.trim().parse().ok(),
            None => other.split('?').collect::<Vec<_>>().join("*"),
        },
    };
    let mut options = cronexpr::ParseOptions::default();
    options.fallback_timezone_option = cronexpr::FallbackTimezoneOption::UTC;
    let crontab = cronexpr::parse_crontab_with(&schedule, options).ok()?;
    let next = |after: i64| {
        let after = Timestamp::from_second(after).ok()?;
        let next = crontab.find_next(cronexpr::MakeTimestamp(after)).ok()?;
        Some(next.timestamp().as_second())
    };
    let first = next(BEGIN - 1)?;
    let end = first - first.rem_euclid(DAY) + DAY;
    let (mut at, mut longest) = (first, 0);
    while let Some(then) = next(at).filter(|then| *then < end) {
        longest = longest.max(then - at);
        at = then;
    }
    let (first, last) = (first.rem_euclid(DAY), at.rem_euclid(DAY));
    while at < BEGIN + DAYS * DAY {
        let then = next(at)?;
        longest = longest.max(then - at);
        at = then - first + last;
    }
    Some(SignedDuration::from_secs(longest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn named(pod: Value) -> Vec<String> {
        let object = json!({"metadata": {"namespace": "batch", "name": "report"}, "spec": {
            "schedule": "@daily", "jobTemplate": {"spec": {"template": {"spec": pod}}}}});
        let found = scheduled(&serde_json::from_value(object).unwrap());
        found.iter().map(|one| format!("{}/{}:{}", one.namespace, one.service, one.port)).collect()
    }

    #[test]
    fn services_are_named_in_every_way_that_a_resolver_knows() {
        let told = |word: &str| named(json!({"containers": [{"args": [word]}]}));
        for (word, expected) in [
            ("orders", "batch/orders:any port"),
            ("http://orders.shop/v1", "shop/orders:any port"),
            ("--url=https://orders.shop.svc:8443/a?b=c", "shop/orders:8443"),
            ("postgres://me:secret@db.shop.svc.cluster.local:5432/x", "shop/db:5432"),
            ("db-0.db.shop.svc.cluster.local:5432", "shop/db:5432"),
        ] {
            assert!(told(word).iter().any(|one| one == expected), "{word}: {:?}", told(word));
        }
        for word in ["8080", "UPPER", "10.0.0.1:80", "a.b.example.com", "", "---", "..."] {
            assert!(!told(word).iter().any(|one| one.contains("example")), "{word}");
            assert!(told(word).iter().all(|one| !one.starts_with("batch/")), "{word}");
        }
    }

    #[test]
    fn all_words_of_all_containers_count() {
        let pod = json!({
            "initContainers": [{"command": ["wait-for", "a.shop"]}],
            "containers": [{"env": [{"name": "B", "value": "b.shop"}, {"name": "C"}]},
                {"command": null, "args": ["c.shop"]}],
        });
        let all = named(pod);
        for service in ["a", "b", "c"] {
            assert!(all.contains(&format!("shop/{service}:any port")), "{all:?}");
        }
        let many: Vec<_> = (0..1000).map(|at| format!("s{at}.shop")).collect();
        assert_eq!(named(json!({"containers": [{"args": many}]})).len(), HOSTS);
    }

    #[test]
    fn it_rests_longest_over_nights_weekends_and_seasons() {
        let hours = |schedule: &str| longest_rest(schedule).map(|rest| rest.as_secs_f64() / 3600.0);
        for (schedule, expected) in [
            ("* * * * *", 1.0 / 60.0),
            ("*/15 * * * *", 0.25),
            ("0,10 * * * *", 50.0 / 60.0),
            ("0 * * * *", 1.0),
            ("0 3 * * *", 24.0),
            ("30 3,15 * * *", 12.0),
            ("*/5 8-18 * * *", 13.0 + 5.0 / 60.0),
            ("0 6 * * 1-5", 72.0),
            ("0 0 * * 0", 7.0 * 24.0),
            ("0 0 1 * *", 31.0 * 24.0),
            ("0 0 1 1 *", 365.0 * 24.0),
            ("@hourly", 1.0),
            ("@daily", 24.0),
            ("@weekly", 7.0 * 24.0),
            ("@every 1h30m", 1.5),
            ("0 0 ? * 1", 7.0 * 24.0),
        ] {
            let found = hours(schedule).unwrap_or_else(|| panic!("{schedule}"));
            assert!((found - expected).abs() < 1e-6, "{schedule}: {found} h, not {expected} h");
        }
        // Not in December: seen only by looking at more than a season.
        assert!(hours("0 12 * 1-11 *").unwrap() > 30.0 * 24.0);
        for never in ["0 0 30 2 *", "when it rains", "", "@reboot"] {
            assert_eq!(longest_rest(never), None, "{never}");
        }
    }

    #[test]
    fn who_is_suspended_rests_for_a_time_that_cannot_be_told() {
        let of = |suspend: Value| {
            let object = json!({"metadata": {"namespace": "batch", "name": "report"}, "spec": {
                "schedule": "* * * * *", "suspend": suspend, "jobTemplate": {"spec": {"template":
                    {"metadata": {"labels": {"app": "report"}},
                        "spec": {"containers": [{"args": ["orders.shop"]}]}}}}}});
            let found = scheduled(&serde_json::from_value(object).unwrap());
            let Caller::Scheduled(scheduled) = &found[0].caller else { panic!("{found:?}") };
            assert_eq!(scheduled.template.labels.value("app"), Some("report"));
            scheduled.rests
        };
        assert_eq!(of(json!(true)), None);
        assert_eq!(of(Value::Null), Some(SignedDuration::from_mins(1)));
    }
}
