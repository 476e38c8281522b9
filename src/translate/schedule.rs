//! Work by a schedule: whom a CronJob names, and for how long at most it is not there to be seen.
//!
//! Source: `istio-semantics.md` F19; Kubernetes' schedules are those of `robfig/cron`, standard
//! parser.

use super::namespace;
use super::pod::template;
use crate::kubernetes::{CronJob, Made};
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::finding::Subject;
use meshrollout_core::ident::Port;
use meshrollout_core::scheduled::{ANY, Names, Ran, Scheduled};

/// Whom a CronJob names, by the words of its containers; `None` if nobody. What it reads from
/// ConfigMaps, Secrets or its image is not seen.
pub fn scheduled(object: &CronJob) -> Option<Scheduled> {
    let own = namespace(&object.metadata);
    let spec = &object.spec;
    let Made { template: made, words, early, searches } = &spec.job_template.spec.template;
    let spaces = searches.iter().filter_map(|search| {
        // `shop.svc.cluster.local`
        search.split_once('.').filter(|(_, rest)| rest.starts_with("svc")).map(|(name, _)| name)
    });
    let spaces: Vec<_> = spaces.chain([own.as_str()]).collect();
    let names = |words: &[String]| words.iter().flat_map(|text| hosts(text, &spaces)).collect();
    let (names, early): (Names, Names) = (names(words), names(early));
    // Each run is an event: what names nobody costs no calculation.
    if names.is_empty() && early.is_empty() {
        return None;
    }
    let name = object.metadata.name.as_deref().unwrap_or_default();
    Some(Scheduled {
        job: Subject::new("CronJob", &own, name),
        names,
        early,
        ran: ran(object),
        rests: match spec.suspend {
            Some(true) => None,
            _ => longest_rest(&spec.schedule, spec.time_zone.as_deref()),
        },
        template: template(made),
    })
}

/// When the last run began that ended well and was already what the CronJob is now. Runs that
/// somebody makes of it by hand count as well, as they do in its status; those end within moments.
fn ran(object: &CronJob) -> Ran {
    let meta = &object.metadata;
    let managers = meta.managed_fields.iter().flatten();
    // Who writes its status changes nothing of what it does.
    let edits = managers.filter(|one| one.subresource.as_deref().unwrap_or_default().is_empty());
    let mut edits = edits.filter_map(|one| one.time.as_ref()).peekable();
    if meta.uid.is_none() || edits.peek().is_none() {
        return Ran::Unsaid;
    }
    let changed = edits.chain(&meta.creation_timestamp).map(|time| time.0).max();
    let status = &object.status;
    let (Some(ended), Some(changed)) = (&status.last_successful_time, changed) else {
        return Ran::Never;
    };
    // What began before the change did what it did before.
    let begun = status.last_schedule_time.as_ref().map(|time| time.0);
    let begun = begun.filter(|begun| *begun <= ended.0 && ended.0.duration_since(*begun) <= LONG);
    match begun.unwrap_or(ended.0) {
        begun if begun > changed => Ran::At(begun),
        _ => Ran::Never,
    }
}

/// What ends later after the last time by the schedule was made by hand.
const LONG: SignedDuration = SignedDuration::from_hours(24);

/// A namespace, a Service and a port that a text may mean.
pub(super) type Meant = (String, String, Option<Port>);

/// The Services that a text may mean, in any way that a resolver knows: by their name alone where
/// it is looked for in their namespace, with that of their namespace, with a pod's before it. The
/// text is in lower case.
pub(super) fn hosts(text: &str, spaces: &[&str]) -> Vec<Meant> {
    let ends = |letter: char| !letter.is_ascii_alphanumeric() && !".-:".contains(letter);
    let mut found = vec![];
    for piece in text.split_inclusive(ends) {
        let word = piece.trim_end_matches(ends);
        found.extend(meant(word, spaces));
        // `-hdb.shop` is an option of one letter with its value.
        if let Some(value) = word.strip_prefix('-').and_then(|rest| rest.get(1..)) {
            found.extend(meant(value, spaces));
        }
        // `orders.${SPACE}` is put together when it is run.
        if piece.ends_with('$')
            && let Some(host) = word.strip_suffix('.')
            && let Some(service) = host.rsplit(['.', ':']).next()
        {
            found.push((ANY.to_owned(), service.to_owned(), None));
        }
    }
    // What Kubernetes puts into each container's environment of the Services beside it.
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    for word in text.split(|letter| !is_name(letter)) {
        let of = |end| word.split_once(end).filter(|(name, _)| !name.is_empty());
        if let Some((name, _)) = of("_service_host").or_else(|| of("_service_port")) {
            let name = name.split('_').collect::<Vec<_>>().join("-");
            found.extend(spaces.iter().map(|space| ((*space).to_owned(), name.clone(), None)));
        }
    }
    found
}

/// A host may stand behind others, a scheme or a port of our own: `dns:orders.shop:50051`. What
/// follows it and is no port may be put together, and be any.
fn meant(word: &str, spaces: &[&str]) -> Vec<Meant> {
    let mut found = vec![];
    let mut parts = word.split(':').peekable();
    while let Some(host) = parts.next() {
        let port = parts.peek().and_then(|port| port.parse().ok()).map(Port);
        let host = host.trim_matches(['.', '-']);
        let labels: Vec<&str> = host.split('.').collect();
        let mut add = |namespace: &str, service: &str| {
            if !namespace.is_empty() && !service.is_empty() {
                found.push((namespace.to_owned(), service.to_owned(), port));
            }
        };
        if let [service] | [_, service] = labels.as_slice() {
            spaces.iter().for_each(|space| add(space, service));
        }
        if let [service, namespace] | [service, namespace, "svc", ..] = labels.as_slice() {
            add(namespace, service);
        }
        if let [_, service, namespace] | [_, service, namespace, "svc", ..] = labels.as_slice() {
            add(namespace, service);
        }
    }
    found
}

/// The longest time between two runs; `None` where it never runs, or it cannot be told when.
///
/// A day on which it runs has the same times as every other, so that it is enough to look at one
/// day closely, and at each day's end for the next.
fn longest_rest(schedule: &str, zone: Option<&str>) -> Option<SignedDuration> {
    /// A Thursday, the first day of its year.
    const BEGIN: i64 = 1_767_225_600;
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    /// As many days are looked at, from the first that it runs on: a year's rest is the longest of
    /// most.
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
    // Of a day of the month and one of the week Kubernetes wants both where either is a list with a
    // star in it, the library one of the two.
    let is_list_with_star = |field: &str| field.contains(',') && field.contains('*');
    if schedule.split_whitespace().skip(2).any(is_list_with_star) {
        return None;
    }
    let mut options = cronexpr::ParseOptions::default();
    options.fallback_timezone_option = cronexpr::FallbackTimezoneOption::UTC;
    let crontab = cronexpr::parse_crontab_with(&schedule, options).ok()?;
    let next = |after: i64| {
        let after = Timestamp::from_second(after).ok()?;
        let next = crontab.find_next(cronexpr::MakeTimestamp(after)).ok()?;
        Some(next.timestamp().as_second())
    };
    let begin = next(BEGIN - 1)?;
    let end = begin - begin.rem_euclid(DAY) + DAY;
    let (mut at, mut longest) = (begin, 0);
    while let Some(then) = next(at).filter(|then| *then < end) {
        longest = longest.max(then - at);
        at = then;
    }
    let (first, last) = (begin.rem_euclid(DAY), at.rem_euclid(DAY));
    while at < begin + DAYS * DAY {
        let then = next(at)?;
        longest = longest.max(then - at);
        at = then - first + last;
    }
    if zone.is_some_and(|zone| !["UTC", "Etc/UTC", "GMT", "Etc/GMT"].contains(&zone)) {
        // The hour that is left out in spring takes the runs in it with it.
        longest = 2 * longest + HOUR;
    }
    Some(SignedDuration::from_secs(longest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Of these, those that the pod names.
    fn named(pod: Value, spaces: &[&str]) -> Vec<String> {
        let object = json!({"metadata": {"namespace": "batch", "name": "report"}, "spec": {
            "schedule": "@daily", "jobTemplate": {"spec": {"template": {"spec": pod}}}}});
        let found = scheduled(&serde_json::from_value(object).unwrap());
        let found = found.map(|found| [found.names, found.early]).unwrap_or_default();
        let of = |space: &&str| {
            let all = found.iter().flat_map(|names| names.of(&(*space).into()));
            all.map(|(service, port)| format!("{space}/{service}:{port}")).collect::<Vec<_>>()
        };
        spaces.iter().flat_map(of).collect()
    }

    #[test]
    fn services_are_named_in_every_way_that_a_resolver_knows() {
        let told = |word: &str| {
            named(json!({"containers": [{"args": [word]}]}), &["batch", "shop", "2nd"])
        };
        for (word, expected) in [
            ("orders", "batch/orders:any port"),
            ("http://orders.shop/v1", "shop/orders:any port"),
            ("HTTP://Orders.Shop", "shop/orders:any port"),
            ("--url=https://orders.shop.svc:8443/a?b=c", "shop/orders:8443"),
            ("postgres://me:secret@db.shop.svc.cluster.local:5432/x", "shop/db:5432"),
            ("db-0.db.shop.svc.cluster.local:5432", "shop/db:5432"),
            ("db-0.db", "batch/db:any port"),
            ("orders.shop.svc.cluster.local.", "shop/orders:any port"),
            // The port is put together when it is run, or is no port.
            ("http://orders.shop:$(PORT)/", "shop/orders:any port"),
            ("redis.shop:6379:0", "shop/redis:6379"),
            ("orders.shop:latest", "shop/orders:any port"),
            ("-hdb.shop", "shop/db:any port"),
            ("orders.2nd", "2nd/orders:any port"),
            ("dns:orders.shop:50051", "shop/orders:50051"),
            ("tcp:db.shop:5432", "shop/db:5432"),
            ("::orders.shop:80", "shop/orders:80"),
            ("8080:orders.shop:80", "shop/orders:80"),
            ("http://orders.${SPACE}.svc:80/", "shop/orders:any port"),
            ("http://$ORDER_API_SERVICE_HOST:80", "batch/order-api:any port"),
        ] {
            assert!(told(word).iter().any(|one| one == expected), "{word}: {:?}", told(word));
        }
        for word in ["10.0.0.1:80", "a.b.example.com", "", "---", "..."] {
            let told = told(word);
            assert!(
                told.iter().all(|one| !one.contains("shop/") && !one.contains("example")),
                "{word}: {told:?}"
            );
        }
    }

    #[test]
    fn all_words_of_all_containers_count() {
        let pod = json!({
            "initContainers": [{"command": ["wait-for", "a.shop"]}],
            "containers": [{"env": [{"name": "B", "value": "b.shop"}, {"name": "C"}]},
                {"command": null, "args": ["c.shop"]}],
        });
        let all = named(pod, &["shop"]);
        for service in ["a", "b", "c"] {
            assert!(all.contains(&format!("shop/{service}:any port")), "{all:?}");
        }
        // However much stands before it.
        let script: Vec<_> = (0..1000).map(|at| format!("echo s{at} &&")).collect();
        let script = format!("{} curl late.shop", script.join(" "));
        let all = named(json!({"containers": [{"command": ["sh", "-c", script]}]}), &["shop"]);
        assert_eq!(all, ["shop/late:any port"]);
    }

    #[test]
    fn names_are_looked_for_where_the_pod_says_and_init_containers_are_told_apart() {
        let pod = json!({"dnsConfig": {"searches": ["shop.svc.cluster.local", "example.com"]},
            "initContainers": [{"args": ["first"]}], "containers": [{"args": ["second"]}]});
        let object = json!({"metadata": {"namespace": "batch", "name": "report"}, "spec": {
            "schedule": "@daily", "jobTemplate": {"spec": {"template": {"spec": pod}}}}});
        let found = scheduled(&serde_json::from_value(object).unwrap()).unwrap();
        for space in ["batch", "shop"] {
            let of = |names: &Names| {
                names.of(&space.into()).map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(
                (of(&found.early), of(&found.names)),
                (vec!["first".into()], vec!["second".into()])
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_job_that_names_nobody() {
        for pod in [json!({"containers": [{"args": "orders.shop"}]}), json!({"containers": 1})] {
            let object = json!({"metadata": {"namespace": "batch", "name": "report"}, "spec": {
                "schedule": "@daily", "jobTemplate": {"spec": {"template": {"spec": pod}}}}});
            assert!(serde_json::from_value::<CronJob>(object).is_err(), "{pod}");
        }
    }

    #[test]
    fn it_rests_longest_over_nights_weekends_and_seasons() {
        let hours =
            |schedule: &str| longest_rest(schedule, None).map(|rest| rest.as_secs_f64() / 3600.0);
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
            // The first is two years from the beginning.
            ("0 0 29 2 *", 1461.0 * 24.0),
        ] {
            let found = hours(schedule).unwrap_or_else(|| panic!("{schedule}"));
            assert!((found - expected).abs() < 1e-6, "{schedule}: {found} h, not {expected} h");
        }
        // Not in December: seen only by looking at more than a season.
        assert!(hours("0 12 * 1-11 *").unwrap() > 30.0 * 24.0);
        for never in ["0 0 30 2 *", "when it rains", "", "@reboot", "0 0 1,* * 1", "0 0 1 * ?,1"] {
            assert_eq!(longest_rest(never, None), None, "{never}");
        }
        // At two o'clock there is nothing to run in one night of March.
        let in_zone = |zone: &str| longest_rest("0 2 * * *", Some(zone)).unwrap().as_hours();
        assert_eq!((in_zone("Etc/UTC"), in_zone("Europe/Berlin")), (24, 49));
    }

    #[test]
    fn who_is_suspended_rests_for_a_time_that_cannot_be_told() {
        let of = |suspend: Value| {
            let object = json!({"metadata": {"namespace": "batch", "name": "report"}, "spec": {
                "schedule": "* * * * *", "suspend": suspend, "jobTemplate": {"spec": {"template":
                    {"metadata": {"labels": {"app": "report"}},
                        "spec": {"containers": [{"args": ["orders.shop"]}]}}}}}});
            let found = scheduled(&serde_json::from_value(object).unwrap()).unwrap();
            assert_eq!(found.template.labels.value("app"), Some("report"));
            assert_eq!(found.ran, Ran::Unsaid);
            found.rests
        };
        assert_eq!(of(json!(true)), None);
        assert_eq!(of(Value::Null), Some(SignedDuration::from_mins(1)));
    }

    #[test]
    fn a_run_of_what_it_was_before_is_none_of_what_it_is() {
        let fields = json!([
            {"manager": "kubectl", "operation": "Apply", "time": "2026-01-02T00:00:00Z"},
            {"manager": "kube-controller-manager", "operation": "Update",
                "subresource": "status", "time": "2026-01-09T00:00:00Z"},
        ]);
        let of = |fields: &Value, status: Value| {
            let object = json!({"metadata": {"namespace": "batch", "name": "report", "uid": "1",
                "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": fields},
                "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template":
                    {"spec": {"containers": [{"args": ["orders.shop"]}]}}}}}, "status": status});
            scheduled(&serde_json::from_value(object).unwrap()).unwrap().ran
        };
        let ran = |status: Value| of(&fields, status);
        let last = |ended: &str| ran(json!({"lastSuccessfulTime": ended}));
        assert_eq!(ran(json!({})), Ran::Never);
        assert_eq!(ran(json!({"lastScheduleTime": "2026-01-05T00:00:00Z"})), Ran::Never);
        assert_eq!(last("2026-01-01T12:00:00Z"), Ran::Never);
        let both = |begun: &str, ended: &str| {
            ran(json!({"lastScheduleTime": begun, "lastSuccessfulTime": ended}))
        };
        // It began before the change; it took its time; it was made by hand long after the last.
        assert_eq!(both("2026-01-01T23:00:00Z", "2026-01-02T01:00:00Z"), Ran::Never);
        let begun = "2026-01-03T00:00:00Z".parse().unwrap();
        assert_eq!(both("2026-01-03T00:00:00Z", "2026-01-03T05:00:00Z"), Ran::At(begun));
        let by_hand = "2026-01-08T05:00:00Z".parse().unwrap();
        assert_eq!(both("2026-01-03T00:00:00Z", "2026-01-08T05:00:00Z"), Ran::At(by_hand));
        // kubectl leaves it out unless it is asked for it.
        assert_eq!(of(&Value::Null, json!({})), Ran::Unsaid);
        let ended = "2026-01-03T00:00:00Z";
        assert_eq!(last(ended), Ran::At(ended.parse().unwrap()));
    }
}
