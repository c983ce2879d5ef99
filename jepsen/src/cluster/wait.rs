//! Waiting for a condition, and the sign that nobody shall wait any more.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio_util::sync::CancellationToken;

/// Time between two looks at a condition.
const STEP: Duration = Duration::from_millis(20);

/// Says that the run is to end: Ctrl-C, SIGTERM. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Ends all that waits with this sign.
    pub fn stop(&self) {
        self.0.cancel();
    }

    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// For asynchronous code.
    pub fn token(&self) -> &CancellationToken {
        &self.0
    }

    /// Asks `probe` until it gives a value. `Ok(None)` and `Err` both mean "not yet"; when `limit` is over, the error
    /// names `what` was waited for and the last error of the probe.
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            let last = match probe() {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => String::new(),
                Err(error) => format!(": {error:#}"),
            };
            if self.is_stopped() {
                bail!("stopped while waiting for: {what}");
            }
            if start.elapsed() >= limit {
                bail!("waited {:.1} s in vain: {what}{last}", limit.as_secs_f64());
            }
            sleep(STEP);
        }
    }

    /// As [`Stop::until`], for a condition without a value.
    pub fn until_true(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        self.until(what, limit, || Ok(probe()?.then_some(())))
    }

    /// Lets time pass that a schedule of faults asks for; an error when the run is to end.
    pub fn pass(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if self.is_stopped() {
                bail!("stopped");
            }
            sleep(left.min(STEP));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_condition_and_the_last_error() {
        let stop = Stop::default();
        let error = stop.until::<()>("the moon", Duration::ZERO, || bail!("cloudy")).unwrap_err();
        assert_eq!(error.to_string(), "waited 0.0 s in vain: the moon: cloudy");
        let mut left = 3;
        let turns = stop.until("three", Duration::from_secs(9), || {
            left -= 1;
            Ok((left == 0).then_some(left))
        });
        assert_eq!(turns.unwrap(), 0);
    }

    #[test]
    fn a_stop_ends_the_waiting() {
        let stop = Stop::default();
        stop.stop();
        assert!(stop.until_true("never", Duration::from_secs(99), || Ok(false)).is_err());
        assert!(stop.pass(Duration::from_secs(99)).is_err());
    }
}
