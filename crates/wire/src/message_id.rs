//! Message ids (MessageDecoder, MessageClientIDSetter), all in upper-case hexadecimal.
//!
//! ```text
//! offset message id   ip 4|16  port 4  position 8                        32 or 56 characters
//! unique id           ip 4|16  pid 2   loader 4  ms of month 4  count 2  32 or 56 characters
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Buf;

use crate::ids::LogPosition;

/// A text that is not a message id of the form asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id")]
pub struct MessageIdError;

/// The id by which a stored message can be fetched: who stored it, and where in the log.
/// `Display` and `FromStr` are its text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OffsetMessageId {
    pub host: SocketAddr,
    pub position: LogPosition,
}

impl fmt::Display for OffsetMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut id = Hex::default();
        id.put_ip(self.host.ip());
        id.put(&i32::from(self.host.port()).to_be_bytes());
        id.put(&self.position.to_wire().to_be_bytes());
        f.write_str(id.as_str())
    }
}

impl FromStr for OffsetMessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<OffsetMessageId, MessageIdError> {
        let bytes = from_hex(text).ok_or(MessageIdError)?;
        let mut rest: &[u8] = &bytes;
        let ip = take_ip(&mut rest, 12)?;
        let port = rest.try_get_i32().map_err(|_| MessageIdError)?;
        let position = rest.try_get_i64().map_err(|_| MessageIdError)?;
        Ok(OffsetMessageId {
            host: SocketAddr::new(ip, u16::try_from(port).map_err(|_| MessageIdError)?),
            position: LogPosition::from_wire(position).ok_or(MessageIdError)?,
        })
    }
}

/// The parts of a unique id made by a RocketMQ client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UniqueId {
    pub ip: IpAddr,
    pub pid: u16,
    /// Java: hash of the class loader. Any number that tells two producers of a process apart.
    pub loader: u32,
    /// Milliseconds since the month began, in the producer's time zone.
    pub month_millis: u32,
    pub count: u16,
}

impl UniqueId {
    /// When the id was made, in milliseconds since 1970, as tools work it out: the latest such time
    /// of this month or the last that is not after `now_millis` (UTC months).
    pub fn time_near(&self, now_millis: i64) -> i64 {
        let start = month_start(now_millis);
        let time = start.saturating_add(i64::from(self.month_millis));
        if time <= now_millis {
            return time;
        }
        month_start(start.saturating_sub(1)).saturating_add(i64::from(self.month_millis))
    }
}

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut id = Hex::default();
        id.put_ip(self.ip);
        id.put(&self.pid.to_be_bytes());
        id.put(&self.loader.to_be_bytes());
        id.put(&self.month_millis.to_be_bytes());
        id.put(&self.count.to_be_bytes());
        f.write_str(id.as_str())
    }
}

impl FromStr for UniqueId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<UniqueId, MessageIdError> {
        let bytes = from_hex(text).ok_or(MessageIdError)?;
        let mut rest: &[u8] = &bytes;
        let ip = take_ip(&mut rest, 12)?;
        let short = |_| MessageIdError;
        Ok(UniqueId {
            ip,
            pid: rest.try_get_u16().map_err(short)?,
            loader: rest.try_get_u32().map_err(short)?,
            month_millis: rest.try_get_u32().map_err(short)?,
            count: rest.try_get_u16().map_err(short)?,
        })
    }
}

/// Makes unique ids. It owns a counter and nothing else: the clock is given at each call.
#[derive(Debug)]
pub struct UniqueIds {
    ip: IpAddr,
    pid: u16,
    loader: u32,
    count: AtomicU16,
}

impl UniqueIds {
    /// `loader` tells apart what shares address and process number, such as two producers.
    pub fn new(ip: IpAddr, pid: u32, loader: u32) -> UniqueIds {
        UniqueIds { ip: ip.to_canonical(), pid: pid as u16, loader, count: AtomicU16::new(0) }
    }

    /// The next id, at `now_millis` since 1970. Unique while fewer than 65,536 are made in a
    /// millisecond and the clock does not go back.
    pub fn next(&self, now_millis: i64) -> UniqueId {
        UniqueId {
            ip: self.ip,
            pid: self.pid,
            loader: self.loader,
            month_millis: (now_millis - month_start(now_millis)).clamp(0, i64::from(u32::MAX)) as u32,
            count: self.count.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// The first millisecond of the UTC month of `millis`.
fn month_start(millis: i64) -> i64 {
    const DAY: i64 = 86_400_000;
    let days = millis.div_euclid(DAY);
    // Day of month by the proleptic Gregorian calendar, counted from 1 March of year 0.
    let shifted = days + 719_468;
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    (days - day_of_month).saturating_mul(DAY)
}

/// The address at the front; which kind tells from what is left besides `others` bytes.
fn take_ip(rest: &mut &[u8], others: usize) -> Result<IpAddr, MessageIdError> {
    match rest.len().checked_sub(others) {
        Some(4) => {
            rest.try_get_u32().map(|bits| IpAddr::V4(Ipv4Addr::from(bits))).map_err(|_| MessageIdError)
        }
        Some(16) => {
            rest.try_get_u128().map(|bits| IpAddr::V6(Ipv6Addr::from(bits))).map_err(|_| MessageIdError)
        }
        _ => Err(MessageIdError),
    }
}

/// An id being written; the longest has 28 bytes.
#[derive(Default)]
struct Hex {
    digits: [[u8; 2]; 28],
    used: usize,
}

impl Hex {
    fn put(&mut self, bytes: &[u8]) {
        let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
        for (slot, &byte) in self.digits.iter_mut().skip(self.used).zip(bytes) {
            *slot = [digit(byte >> 4), digit(byte & 15)];
        }
        self.used += bytes.len();
    }

    fn put_ip(&mut self, ip: IpAddr) {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.put(&ip.octets()),
            IpAddr::V6(ip) => self.put(&ip.octets()),
        }
    }

    fn as_str(&self) -> &str {
        let digits = self.digits.as_flattened().get(..self.used * 2).unwrap_or_default();
        std::str::from_utf8(digits).unwrap_or_default()
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !matches!(text.len(), 32 | 56) {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| pair.iter().try_fold(0_u8, |byte, &c| Some(byte << 4 | (c as char).to_digit(16)? as u8)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn offset_ids_of_java() {
        for (text, host) in [
            ("7F00000100002A9F00000000000004D2", "127.0.0.1:10911"),
            ("20010DB800000000000000000000000100002A9F00000000000004D2", "[2001:db8::1]:10911"),
        ] {
            let id = OffsetMessageId { host: host.parse().unwrap(), position: LogPosition(1234) };
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(text.to_lowercase().parse(), Ok(id));
        }
    }

    #[test]
    fn unique_id_of_java() {
        // MessageClientIDSetter.createUniqID at 1795461606169 in process 12866, address fd00::2.
        let text = "FD00000000000000000000000000000232421DBD16A6757203190000";
        let id: UniqueId = text.parse().unwrap();
        assert_eq!(id.ip, "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!((id.pid, id.loader, id.count), (12_866, 0x1DBD_16A6, 0));
        assert_eq!(id.time_near(1_795_461_606_169), 1_795_461_606_169);
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in ["", "7F", &"G".repeat(32), &"é".repeat(16), &"F".repeat(32), &"0".repeat(40)] {
            assert_eq!(text.parse::<OffsetMessageId>(), Err(MessageIdError), "{text}");
        }
        assert!("01aabbccddeeff00112233445566778899".parse::<UniqueId>().is_err(), "a gRPC id has 34 digits");
    }

    #[test]
    fn months_begin_at_midnight_utc() {
        let check = |millis: i64, expect: i64| assert_eq!(month_start(millis), expect);
        check(0, 0);
        check(1_709_251_199_999, 1_706_745_600_000); // 2024-02-29T23:59:59.999Z
        check(1_709_251_200_000, 1_709_251_200_000); // 2024-03-01
        check(1_735_689_599_999, 1_733_011_200_000); // 2024-12-31
        check(-1, -2_678_400_000); // 1969-12-31
    }

    #[test]
    fn an_id_of_last_month_is_found_there() {
        let ids = UniqueIds::new("10.0.0.1".parse().unwrap(), 70_000, 9);
        let made = 1_709_251_199_000; // one second before March 2024
        let id = ids.next(made);
        assert_eq!(id.pid, (70_000 % 65_536) as u16);
        assert_eq!(id.time_near(made + 5_000), made);
        assert_eq!(ids.next(made).count, id.count + 1);
    }

    proptest! {
        #[test]
        fn ids_round_trip(ip in any::<IpAddr>(), (port, count, pid) in any::<(u16, u16, u16)>(), (loader, month_millis) in any::<(u32, u32)>(), position in 0..=i64::MAX as u64) {
            let ip = ip.to_canonical();
            let id = OffsetMessageId { host: SocketAddr::new(ip, port), position: LogPosition(position) };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            let id = UniqueId { ip, pid, loader, month_millis, count };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
