//! Waiting for a condition.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks at a condition.
const STEP: Duration = Duration::from_millis(10);

/// An error after which waiting on is vain.
#[derive(Debug)]
struct Final(String);

impl std::fmt::Display for Final {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Final {}

/// An error of a probe that ends the waiting.
pub fn final_error(text: impl Into<String>) -> anyhow::Error {
    Final(text.into()).into()
}

/// Asks `probe` until it gives a value. `Ok(None)` and `Err` both mean "not yet", but for a [`final_error`]; when
/// `limit` is over, the error names `what` was waited for and the last error of the probe.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) if error.is::<Final>() => return Err(error.context(format!("waiting for: {what}"))),
            Err(error) => format!(": {error:#}"),
        };
        if start.elapsed() >= limit {
            bail!("waited {:.1} s in vain: {what}{last}", limit.as_secs_f64());
        }
        sleep(STEP);
    }
}

/// As [`until`], for a condition without a value.
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(probe()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_condition_and_the_last_error() {
        let error = until::<()>("the moon", Duration::ZERO, || bail!("cloudy")).unwrap_err();
        assert_eq!(error.to_string(), "waited 0.0 s in vain: the moon: cloudy");
        let error =
            until::<()>("the moon", Duration::from_secs(99), || Err(final_error("gone"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "waiting for: the moon: gone");
        let mut left = 3;
        let turns = until("three", Duration::from_secs(9), || {
            left -= 1;
            Ok((left == 0).then_some(left))
        });
        assert_eq!(turns.unwrap(), 0);
    }
}
