//! What waits to be written to one peer.
//!
//! ```text
//! ready  [head][large body][head][large body] ...   tail  small frames, back to back
//! ```

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use wire::RemotingCommand;

use crate::limits::{BODY_INLINE_BYTES_MAX, WRITE_SLICES_MAX};

/// Frames in the order in which they were sent. A driver takes them all at once and writes them.
#[derive(Default)]
pub(crate) struct Outbound {
    ready: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes ever pushed.
    pushed: u64,
    /// Size of the last tail taken: how much the next one probably needs.
    tail_hint: usize,
}

impl Outbound {
    /// Appends a frame; its bytes end at the returned place in the stream.
    pub(crate) fn push(&mut self, command: RemotingCommand) -> u64 {
        let body = command.body.len();
        if self.tail.capacity() == 0 {
            self.tail.reserve(self.tail_hint.clamp(512, 64 * 1024));
        }
        let before = self.tail.len();
        command.encode_head(&mut self.tail, body);
        self.pushed += (self.tail.len() - before + body) as u64;
        if body < BODY_INLINE_BYTES_MAX {
            self.tail.extend_from_slice(&command.body);
        } else {
            self.ready.push_back(self.tail.split().freeze());
            self.ready.push_back(command.body);
        }
        self.pushed
    }

    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.tail.is_empty()
    }

    /// Moves everything to the end of `writing`. Keeps no memory: an idle connection owns no buffer.
    pub(crate) fn take(&mut self, writing: &mut Writing) {
        writing.slices.append(&mut self.ready);
        if !self.tail.is_empty() {
            self.tail_hint = self.tail.len();
            writing.slices.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }
}

/// What the driver is writing.
#[derive(Default)]
pub(crate) struct Writing {
    slices: VecDeque<Bytes>,
}

impl Writing {
    pub(crate) fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// The first slices, as many as one write takes; returns how many.
    pub(crate) fn fill<'a>(&'a self, out: &mut [IoSlice<'a>; WRITE_SLICES_MAX]) -> usize {
        let mut count = 0;
        for (slot, bytes) in out.iter_mut().zip(&self.slices) {
            *slot = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// Drops `written` bytes from the front.
    pub(crate) fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let Some(front) = self.slices.front_mut() else {
                debug_assert!(false, "more written than there was");
                return;
            };
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.slices.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::RequestCode;

    use super::*;

    fn written(mut writing: Writing, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !writing.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let count = writing.fill(&mut slices);
            let mut all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            all.truncate(step);
            writing.advance(all.len());
            out.extend(all);
        }
        out
    }

    #[test]
    fn frames_leave_in_order_whatever_their_size_and_the_size_of_a_write() {
        let sizes = [0, 1, 5000, 0, 4095, 4096, 9000, 3];
        let frames: Vec<RemotingCommand> = sizes
            .iter()
            .enumerate()
            .map(|(at, &size)| {
                RemotingCommand::request(RequestCode(at as i32)).with_body(vec![at as u8; size])
            })
            .collect();
        let mut expected = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut expected);
        }
        for step in [37, 4096, usize::MAX] {
            let mut outbound = Outbound::default();
            let mut writing = Writing::default();
            let mut end = 0;
            for (at, frame) in frames.iter().enumerate() {
                end = outbound.push(frame.clone());
                if at % 3 == 0 {
                    outbound.take(&mut writing);
                    assert!(outbound.is_empty());
                }
            }
            outbound.take(&mut writing);
            assert_eq!(end, expected.len() as u64);
            assert_eq!(written(writing, step), expected);
        }
    }

    #[test]
    fn more_slices_than_one_write_takes() {
        let mut outbound = Outbound::default();
        let mut expected = BytesMut::new();
        for at in 0..200 {
            let frame = RemotingCommand::request(RequestCode(at)).with_body(vec![at as u8; 5000]);
            frame.encode(&mut expected);
            outbound.push(frame);
        }
        let mut writing = Writing::default();
        outbound.take(&mut writing);
        assert_eq!(written(writing, usize::MAX), expected);
    }
}
