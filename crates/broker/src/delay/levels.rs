//! The delay levels of a group, in RocketMQ's syntax: `1s 5s 10s 30s 1m …` (messageDelayLevel).

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

/// The delays of the levels, 1 first. The leader counts by its own table: it is to be the same on every node of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayLevels(Arc<[u64]>);

/// More levels than anybody has, each of which is a queue of SCHEDULE_TOPIC_XXXX.
const DELAY_LEVELS_MAX: usize = 128;
/// The longest delay that is not taken for a slip of the pen.
const DELAY_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// What the longest delay of timers may be set to, ms.
pub(crate) const TIMER_MAX_DELAY_MS: RangeInclusive<u64> = 1000..=DELAY_MS_MAX;

impl DelayLevels {
    /// The highest level.
    pub fn max(&self) -> u32 {
        self.0.len() as u32
    }

    /// The delay of a level, ms. What waits in a level that there is not any more has the longest one.
    pub(crate) fn delay_ms(&self, level: u32) -> u64 {
        let longest = || self.0.iter().copied().max().unwrap_or(0);
        self.0.get((level as usize).wrapping_sub(1)).copied().unwrap_or_else(longest)
    }
}

impl Default for DelayLevels {
    /// RocketMQ's 18.
    fn default() -> DelayLevels {
        const S: u64 = 1000;
        const M: u64 = 60 * S;
        DelayLevels(Arc::new([
            S,
            5 * S,
            10 * S,
            30 * S,
            M,
            2 * M,
            3 * M,
            4 * M,
            5 * M,
            6 * M,
            7 * M,
            8 * M,
            9 * M,
            10 * M,
            20 * M,
            30 * M,
            60 * M,
            120 * M,
        ]))
    }
}

impl FromStr for DelayLevels {
    type Err = String;

    fn from_str(text: &str) -> Result<DelayLevels, String> {
        let levels = text.split_whitespace().map(duration_ms).collect::<Result<Vec<u64>, String>>()?;
        if levels.is_empty() || levels.len() > DELAY_LEVELS_MAX {
            return Err(format!(
                "must be 1 to {DELAY_LEVELS_MAX} delays, as \"1s 5s 10s\", not {}",
                levels.len()
            ));
        }
        Ok(DelayLevels(levels.into()))
    }
}

impl fmt::Display for DelayLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(24 * 3600 * 1000, 'd'), (3600 * 1000, 'h'), (60 * 1000, 'm'), (1000, 's')];
        for (n, delay) in self.0.iter().enumerate() {
            let (size, unit) =
                units.into_iter().find(|(size, _)| delay % size == 0 && *delay > 0).unwrap_or((1000, 's'));
            write!(f, "{}{}{unit}", if n == 0 { "" } else { " " }, delay / size)?;
        }
        Ok(())
    }
}

/// A number and its unit, s, m, h or d, in ms.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let rule = || format!("must be a number and s, m, h or d, as 30s or 2h, not {text:?}");
    let unit = text.chars().next_back().ok_or_else(rule)?;
    let unit_ms = match unit {
        's' => 1000,
        'm' => 60 * 1000,
        'h' => 3600 * 1000,
        'd' => 24 * 3600 * 1000,
        _ => return Err(rule()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| rule())?;
    let ms = number.checked_mul(unit_ms).filter(|ms| *ms <= DELAY_MS_MAX);
    ms.ok_or_else(|| format!("must be at most 366d, not {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_that_of_rocketmq() {
        let text = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
        assert_eq!(text.parse(), Ok(DelayLevels::default()));
        assert_eq!(DelayLevels::default().to_string(), text);
        assert_eq!(DelayLevels::default().max(), 18);
    }

    #[test]
    fn levels_and_units() {
        let levels: DelayLevels = "0s  90s 2h 1d".parse().unwrap();
        let delays: Vec<u64> = (1..=5).map(|level| levels.delay_ms(level)).collect();
        assert_eq!(delays, [0, 90_000, 7_200_000, 86_400_000, 86_400_000], "the fifth is not there");
        assert_eq!(levels.to_string(), "0s 90s 2h 1d");
        for bad in ["", " ", "1", "s", "1x", "-1s", "1s,2s", "1 s", "1é", "999999999999999999d", "367d"] {
            assert!(bad.parse::<DelayLevels>().is_err(), "{bad:?}");
        }
        assert!("1s ".repeat(DELAY_LEVELS_MAX + 1).parse::<DelayLevels>().is_err());
    }
}
