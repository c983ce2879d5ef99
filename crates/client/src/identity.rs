//! Who this client is (`ip@instance`), and the unique ids it gives to messages.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

use wire::UniqueIds;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// How far the time inside an id lies behind. Tools add the id's milliseconds to the start of the
/// month in *their* time zone and search from there on; ids count in UTC. With half a day less a
/// tool in UTC-12 searches from the right moment and all others from too early, none from too late.
const BEHIND_MS: u64 = 12 * 60 * 60 * 1000;

/// Makes the unique ids of all producers of a client.
#[derive(Debug)]
pub(crate) struct MessageIds(UniqueIds);

impl MessageIds {
    pub(crate) fn new(ip: IpAddr) -> MessageIds {
        MessageIds(UniqueIds::new(ip, std::process::id(), rand::random()))
    }

    pub(crate) fn next(&self, now_ms: u64) -> String {
        self.0.next(now_ms.saturating_sub(BEHIND_MS) as i64).to_string()
    }
}

/// The address from which this machine reaches `peer`; nothing is sent to find out.
pub(crate) fn local_ip_towards(peer: Option<SocketAddr>) -> IpAddr {
    let probe = |bind: &str, peer: SocketAddr| -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(bind)?;
        socket.connect(peer)?;
        Ok(socket.local_addr()?.ip())
    };
    let found = match peer {
        Some(peer @ SocketAddr::V4(_)) => probe("0.0.0.0:0", peer),
        Some(peer @ SocketAddr::V6(_)) => probe("[::]:0", peer),
        None => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// A client id as Java makes them: `ip@instance[@unit]`. Every client of a process needs its own, as
/// brokers and rebalance know consumers by it: without a given instance it is `pid#nanoseconds`.
pub(crate) fn client_id(ip: IpAddr, instance: Option<&str>, unit: Option<&str>) -> String {
    let mut id = match instance {
        Some(instance) => format!("{ip}@{instance}"),
        None => {
            let nanos =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
            format!("{ip}@{}#{nanos}{:04x}", std::process::id(), rand::random::<u16>())
        }
    };
    if let Some(unit) = unit {
        id.push('@');
        id.push_str(unit);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_never_search_from_too_late() {
        let ids = MessageIds::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
        // 2025-11-01 00:00:05 UTC and noon of that day.
        for now in [1_761_955_205_000, 1_761_998_400_000, 1_763_000_000_000_u64] {
            let id: wire::UniqueId = ids.next(now).parse().expect("an id");
            let found = id.time_near(now as i64);
            assert_eq!(found, now as i64 - BEHIND_MS as i64);
        }
    }

    #[test]
    fn client_ids() {
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(client_id(ip, Some("a"), None), "10.0.0.7@a");
        assert_eq!(client_id(ip, Some("a"), Some("u")), "10.0.0.7@a@u");
        assert_ne!(client_id(ip, None, None), client_id(ip, None, None));
    }
}
