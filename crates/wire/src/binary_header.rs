//! The ROCKETMQ header: `code i16, language u8, version i16, opaque i32, flag i32, remark i32+n,
//! fields i32` bytes of `{ key i16+n, value i32+n }`. Length 0 stands for absent (RocketMQSerializable).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::codes::widen_request_code;
use crate::command::{FrameError, RemotingCommand, SerializeType};
use crate::ext::{EXT_FIELDS_MAX, ExtFields};
use crate::language::Language;

pub(crate) fn encode(command: &RemotingCommand, out: &mut BytesMut) {
    // Java cuts the code to 16 bits as well; a peer widens it again where it knows how.
    out.put_i16(command.code as i16);
    out.put_u8(command.language.code());
    out.put_i16(command.version as i16);
    out.put_i32(command.opaque);
    out.put_i32(command.flag);
    let remark = command.remark.as_deref().unwrap_or_default();
    out.put_u32(remark.len() as u32);
    out.extend_from_slice(remark.as_bytes());
    let at = out.len();
    out.put_u32(0);
    for (key, value) in command.ext.iter() {
        // A longer key has no form here; no field of RocketMQ or ours comes near.
        let Ok(key_bytes) = u16::try_from(key.len()) else { continue };
        if key_bytes > i16::MAX as u16 {
            continue;
        }
        out.put_u16(key_bytes);
        out.extend_from_slice(key.as_bytes());
        out.put_u32(value.len() as u32);
        out.extend_from_slice(value.as_bytes());
    }
    let bytes = (out.len() - at - 4) as u32;
    if let Some(mut word) = out.get_mut(at..at + 4) {
        word.put_u32(bytes);
    }
}

pub(crate) fn decode(header: &[u8]) -> Result<RemotingCommand, FrameError> {
    const SHORT: &str = "it ends too early";
    let short = |_| FrameError::header(SHORT);
    let mut rest = header;
    let code = rest.try_get_i16().map_err(short)?;
    let language = Language::from_code(rest.try_get_u8().map_err(short)?);
    let version = i32::from(rest.try_get_i16().map_err(short)?);
    let opaque = rest.try_get_i32().map_err(short)?;
    let flag = rest.try_get_i32().map_err(short)?;
    let remark_bytes = rest.try_get_u32().map_err(short)?;
    let remark = text(&mut rest, remark_bytes as usize)?;
    let remark = (!remark.is_empty()).then(|| remark.to_owned());
    let ext = fields(&mut rest)?;
    let code = if flag & 1 == 0 { widen_request_code(code) } else { i32::from(code) };
    Ok(RemotingCommand {
        code,
        language,
        version,
        opaque,
        flag,
        remark,
        ext,
        serialize: SerializeType::RocketMq,
        body: Bytes::new(),
    })
}

fn fields(rest: &mut &[u8]) -> Result<ExtFields, FrameError> {
    // Java writes the length word even when there are no fields; be kind to who leaves it out.
    let Ok(bytes) = rest.try_get_u32() else { return Ok(ExtFields::new()) };
    if bytes as usize > rest.len() {
        return Err(FrameError::header("its fields end too early"));
    }
    let mut map = rest.get(..bytes as usize).unwrap_or_default();
    let mut ext = ExtFields::with_capacity(16.min(map.len() / 6 + 1), map.len());
    while !map.is_empty() {
        if ext.len() >= EXT_FIELDS_MAX {
            return Err(FrameError::header("it has too many fields"));
        }
        let short = |_| FrameError::header("a field ends too early");
        let key_bytes = map.try_get_u16().map_err(short)?;
        let key = text(&mut map, key_bytes as usize)?;
        let value_bytes = map.try_get_u32().map_err(short)?;
        let value = text(&mut map, value_bytes as usize)?;
        if !key.is_empty() && !value.is_empty() {
            ext.set(key, value);
        }
    }
    Ok(ext)
}

fn text<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a str, FrameError> {
    let Some((head, tail)) = rest.split_at_checked(bytes) else {
        return Err(FrameError::header("a string ends too early"));
    };
    *rest = tail;
    std::str::from_utf8(head).map_err(|_| FrameError::header("a string is not UTF-8"))
}
