use std::time::{Duration, Instant};

use crate::Error;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// Polls `attempt` until it yields a value; `Err` says why not yet, and is told at the limit.
///
/// It asks again after a twentieth of the time that it has waited: many that wait for long must
/// not keep busy what they wait for.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let mut said = String::new();
    loop {
        // Bounded as well: one attempt that hangs must not outlast the limit by much.
        let left = limit.saturating_sub(begin.elapsed()).max(Duration::from_secs(1));
        let not_yet = match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(not_yet)) => not_yet,
            Err(_) => format!("no answer; before that: {said}"),
        };
        if begin.elapsed() >= limit {
            return Err(Error::new(format!(
                "waited {} s for {what}; last seen: {not_yet}",
                limit.as_secs()
            )));
        }
        said = not_yet;
        tokio::time::sleep((begin.elapsed() / 20).clamp(SHORTEST, LONGEST)).await;
    }
}
