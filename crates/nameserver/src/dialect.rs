//! Route JSON with broker ids as fastjson writes them, `{0:"ip:port"}`. Clients before 4.9.4 and the
//! Go client get it where a standard reader was not announced, and everybody on 106 and 901
//! (protocol.md 1.9, 2.2; ClientRequestProcessor.java).

use bytes::Bytes;

const IDS: &str = "\"brokerAddrs\":{";

/// Takes the quotes off the keys of every `brokerAddrs`. Addresses hold no quotes and no braces
/// (`names::is_address`), and inside other strings the marker cannot occur, for its quotes would be
/// escaped there.
pub(crate) fn with_raw_ids(json: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&json) else {
        return json;
    };
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split(IDS);
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        out.push_str(IDS);
        let (ids, rest) = part.split_once('}').unwrap_or((part, ""));
        for (at, entry) in ids.split(',').filter(|entry| !entry.is_empty()).enumerate() {
            if at > 0 {
                out.push(',');
            }
            match entry.split_once("\":") {
                Some((id, address)) => {
                    out.push_str(id.trim_start_matches('"'));
                    out.push(':');
                    out.push_str(address);
                }
                None => out.push_str(entry),
            }
        }
        out.push('}');
        out.push_str(rest);
    }
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use wire::{Body, BrokerData, TopicRouteData};

    use super::*;

    #[test]
    fn only_ids_lose_their_quotes() {
        let data = |name: &str, ids: &[(i64, &str)]| BrokerData {
            broker_name: name.into(),
            cluster: "1".into(),
            broker_addrs: ids.iter().map(|(id, address)| (*id, (*address).to_owned())).collect(),
            ..BrokerData::default()
        };
        let route = TopicRouteData {
            broker_datas: vec![
                data("0", &[(0, "a:1"), (12, "[::1]:2")]),
                data("b", &[]),
                data("c", &[(-1, "h:3")]),
            ],
            order_topic_conf: Some("\"brokerAddrs\":{\"0\":\"x\"}".into()),
            ..TopicRouteData::default()
        };
        let raw = with_raw_ids(route.encode());
        let text = std::str::from_utf8(&raw).unwrap();
        assert!(text.contains(r#""brokerAddrs":{0:"a:1",12:"[::1]:2"},"brokerName":"0""#), "{text}");
        assert!(text.contains(r#""brokerAddrs":{},"brokerName":"b""#), "{text}");
        assert!(text.contains(r#""brokerAddrs":{-1:"h:3"}"#), "{text}");
        assert_eq!(TopicRouteData::decode(&raw).unwrap(), route, "and it reads as before");
    }
}
