//! When a message is to be delivered, by what its properties say (HookUtils of RocketMQ). Pure.
//!
//! DELAY from 1 up is a level and wins; then TIMER_DELAY_SEC, TIMER_DELAY_MS and TIMER_DELIVER_MS, the first that is
//! there. A message that has been a timer message before says so in TIMER_OUT_MS and is none again. Where RocketMQ rounds
//! a time to a second, and so delivers up to a second early, the time here is what was asked for, to the millisecond.

use wire::{ResponseCode, prop};

use crate::config::GroupConfig;
use crate::state::Refusal;

/// What the properties of a message ask for, as it came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wish<'a> {
    level: Option<&'a str>,
    delay_sec: Option<&'a str>,
    delay_ms: Option<&'a str>,
    deliver_ms: Option<&'a str>,
    /// It has been a timer message.
    was_timer: bool,
    /// A marker by which RocketMQ's timer store deletes another message.
    deletes: bool,
}

/// When a message is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    /// After the delay of this level, from 1.
    Level(u32),
    /// At this time, ms since 1970.
    At(u64),
}

impl<'a> Wish<'a> {
    /// Takes a property into account; of equal names the last counts.
    pub(crate) fn note(&mut self, name: &str, value: &'a str) {
        match name {
            prop::DELAY => self.level = Some(value),
            prop::TIMER_DELAY_SEC => self.delay_sec = Some(value),
            prop::TIMER_DELAY_MS => self.delay_ms = Some(value),
            prop::TIMER_DELIVER_MS => self.deliver_ms = Some(value),
            prop::TIMER_OUT_MS => self.was_timer = true,
            prop::TIMER_DEL_UNIQKEY => self.deletes = true,
            _ => {}
        }
    }

    /// The same, from the text of properties.
    #[cfg(test)]
    pub(crate) fn read(properties: &'a str) -> Wish<'a> {
        let mut wish = Wish::default();
        for (name, value) in wire::properties_iter(properties) {
            wish.note(name, value);
        }
        wish
    }

    /// Whether it asks for nothing, so that [`Wish::when`] need not be asked.
    pub(crate) fn is_none(&self) -> bool {
        *self == Wish::default()
    }

    /// The level, 0 for none.
    pub(crate) fn level(&self) -> Result<i32, Refusal> {
        self.level.map_or(Ok(0), |level| {
            level.parse().map_err(|_| {
                let remark = format!("the message is illegal: DELAY is {level:?}, which is no delay level");
                Refusal::new(ResponseCode::MESSAGE_ILLEGAL, remark)
            })
        })
    }

    /// When it is delivered, if it is sent at `now_ms` (ms since 1970).
    pub(crate) fn when(&self, config: &GroupConfig, now_ms: u64) -> Result<When, Refusal> {
        let max = config.timer_max_delay_ms;
        let illegal = |why: String| {
            Err(Refusal::new(
                ResponseCode::MESSAGE_ILLEGAL,
                format!(
                    "timer message illegal, the delay time should not be bigger than the max delay {max}ms; {why}"
                ),
            ))
        };
        if let Ok(level) = u32::try_from(self.level()?)
            && level > 0
        {
            return Ok(When::Level(level.min(config.delay_levels.max())));
        }
        if self.deletes {
            return illegal(
                "a timer message is taken back with RECALL_MESSAGE (370), not with a marker".into(),
            );
        }
        if self.was_timer {
            return Ok(When::Now);
        }
        // Too large a number is not taken for a small one: RocketMQ's own overflows.
        let number = |text: &str| text.parse::<i64>();
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let (name, text, time) = if let Some(text) = self.delay_sec {
            (prop::TIMER_DELAY_SEC, text, number(text).map(|s| now.saturating_add(s.saturating_mul(1000))))
        } else if let Some(text) = self.delay_ms {
            (prop::TIMER_DELAY_MS, text, number(text).map(|ms| now.saturating_add(ms)))
        } else if let Some(text) = self.deliver_ms {
            (prop::TIMER_DELIVER_MS, text, number(text))
        } else {
            return Ok(When::Now);
        };
        let Ok(time) = time else {
            return illegal(format!("{name} is {text:?}, which is no number"));
        };
        if time <= now {
            return Ok(When::Now);
        }
        let time = time as u64;
        if time - now_ms > max {
            return illegal(format!("{name} is {text}"));
        }
        Ok(When::At(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn when(pairs: &[(&str, &str)]) -> Result<When, i32> {
        let properties = wire::properties_from(pairs.iter().copied());
        Wish::read(&properties).when(&GroupConfig::default(), NOW).map_err(|refusal| refusal.code.get())
    }

    #[test]
    fn what_comes_first() {
        let at = |ms: u64| Ok(When::At(NOW + ms));
        let deliver = (NOW + 4).to_string();
        let all = [
            ("DELAY", "3"),
            ("TIMER_DELAY_SEC", "1"),
            ("TIMER_DELAY_MS", "7"),
            ("TIMER_DELIVER_MS", &deliver),
        ];
        assert_eq!(when(&all), Ok(When::Level(3)));
        assert_eq!(when(&all[1..]), at(1000));
        assert_eq!(when(&all[2..]), at(7));
        assert_eq!(when(&all[3..]), at(4), "to the millisecond");
        assert_eq!(when(&[]), Ok(When::Now));
        assert!(Wish::read("KEYS\u{1}k\u{2}").is_none());
        // A level that is none does not count, nor does a timer that has been one.
        assert_eq!(when(&[("DELAY", "0"), ("TIMER_DELAY_MS", "7")]), at(7));
        assert_eq!(when(&[("DELAY", "-1"), ("TIMER_DELAY_MS", "7")]), at(7));
        assert_eq!(when(&[("TIMER_DELAY_MS", "7"), ("TIMER_OUT_MS", "9")]), Ok(When::Now));
        assert_eq!(when(&[("DELAY", "2"), ("TIMER_OUT_MS", "9")]), Ok(When::Level(2)));
    }

    #[test]
    fn numbers_that_are_none_or_too_large() {
        assert_eq!(when(&[("DELAY", "19")]), Ok(When::Level(18)), "clamped");
        for bad in ["x", "1.5", " 3", "99999999999"] {
            assert_eq!(when(&[("DELAY", bad)]), Err(13), "{bad}");
        }
        for name in ["TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS"] {
            for bad in ["x", "", "1e3", "9223372036854775808"].into_iter().filter(|bad| !bad.is_empty()) {
                assert_eq!(when(&[(name, bad)]), Err(13), "{name} {bad}");
            }
            assert_eq!(when(&[(name, "9223372036854775807")]), Err(13), "{name}");
            assert_eq!(when(&[(name, "-9223372036854775808")]), Ok(When::Now), "{name}: past");
            assert_eq!(when(&[(name, "0")]), Ok(When::Now), "{name}: past");
        }
        let days3 = 3 * 24 * 3600;
        assert_eq!(when(&[("TIMER_DELAY_SEC", &days3.to_string())]), Ok(When::At(NOW + days3 * 1000)));
        assert_eq!(when(&[("TIMER_DELAY_MS", &(days3 * 1000 + 1).to_string())]), Err(13));
        assert_eq!(when(&[("TIMER_DEL_UNIQKEY", "T_U"), ("TIMER_DELAY_MS", "7")]), Err(13));
    }
}
