//! The options of a neighbour solicitation (RFC 4861 section 4.6).

use super::Off;
use crate::Mac;
use crate::hdr::icmp::{LinkLayerOption, NeighbourMsg};
use crate::hdr::{Frame, Walk};
use crate::verdict::DropReason;

/// Most options followed; a kernel sends one or none.
const MAX_OPTIONS: u32 = 16;

/// Lengths count in these.
const UNIT_BYTES: u16 = 8;

/// Judges the options of a solicitation of `len_bytes` at `off`: all must lie inside (RFC 4861 section 7.1.1), and one that
/// names the sender's link-layer address must name `mac`.
#[inline(always)]
pub fn solicitation_options<T: Frame + ?Sized>(
    frame: &T,
    off: usize,
    len_bytes: usize,
    mac: Mac,
) -> Result<(), DropReason> {
    if len_bytes < size_of::<NeighbourMsg>() {
        return Err(DropReason::Malformed);
    }
    let (Some(at), Some(end)) = (Off::new(off + size_of::<NeighbourMsg>()), Off::new(off + len_bytes)) else {
        return Err(DropReason::Malformed);
    };
    let mut options = Options { at: at.get() as u16, end: end.get() as u16, mac, bad: None };
    frame.walk(MAX_OPTIONS, &mut options);
    match options.bad {
        Some(reason) => Err(reason),
        None if options.at < options.end => Err(DropReason::Malformed),
        None => Ok(()),
    }
}

/// From one option to the next.
struct Options {
    at: u16,
    end: u16,
    mac: Mac,
    bad: Option<DropReason>,
}

impl Walk for Options {
    #[inline(always)]
    fn step<T: Frame + ?Sized>(&mut self, frame: &T) -> bool {
        if self.at >= self.end {
            return true;
        }
        // Read as the option it may be: all are at least as long.
        let option = frame.copy::<LinkLayerOption>(self.at as usize);
        let Some(LinkLayerOption { kind, len, mac }) = option else {
            self.bad = Some(DropReason::Malformed);
            return true;
        };
        let len_bytes = len as u16 * UNIT_BYTES;
        if len == 0 || self.at + len_bytes > self.end || kind == LinkLayerOption::SOURCE && len != 1 {
            self.bad = Some(DropReason::Malformed);
            return true;
        }
        if kind == LinkLayerOption::SOURCE && mac != self.mac {
            self.bad = Some(DropReason::NdpSpoof);
            return true;
        }
        self.at += len_bytes;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const OFF: usize = 54;
    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const SOURCE: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];

    fn judge(options: &[u8]) -> Result<(), DropReason> {
        let frame = [&[0; OFF + 24][..], options].concat();
        solicitation_options(frame.as_slice(), OFF, 24 + options.len(), OURS)
    }

    #[test]
    fn options_lie_inside_and_name_the_sender() {
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let malformed = Err(DropReason::Malformed);
        for (what, options, want) in [
            ("none", vec![], Ok(())),
            ("the sender's", SOURCE.to_vec(), Ok(())),
            ("behind a nonce", [nonce, SOURCE].concat(), Ok(())),
            ("an unknown one of 16 bytes", [&[200, 2][..], &[0; 14]].concat(), Ok(())),
            ("another's", [1, 1, 2, 0, 0, 0, 0, 2].to_vec(), Err(DropReason::NdpSpoof)),
            ("another's behind a nonce", [nonce, [1, 1, 2, 0, 0, 0, 0, 2]].concat(), Err(DropReason::NdpSpoof)),
            ("a length of 0", [14, 0, 0, 0, 0, 0, 0, 0].to_vec(), malformed),
            ("a length of 0 behind the sender's", [SOURCE, [14, 0, 0, 0, 0, 0, 0, 0]].concat(), malformed),
            ("a length past the end", [14, 2, 0, 0, 0, 0, 0, 0].to_vec(), malformed),
            ("the greatest length", [14, 255, 0, 0, 0, 0, 0, 0].to_vec(), malformed),
            ("an address of 14 bytes", [&[1, 2][..], &[0; 14]].concat(), malformed),
            ("one byte", vec![1], malformed),
            ("seven bytes", SOURCE[..7].to_vec(), malformed),
            ("as many as are followed", nonce.repeat(16), Ok(())),
            ("more", nonce.repeat(17), malformed),
        ] {
            assert_eq!(judge(&options), want, "{what}");
        }
    }

    #[test]
    fn padding_of_the_frame_is_no_option() {
        let frame = [&[0; OFF + 24][..], &SOURCE, &[9; 30]].concat();
        assert_eq!(solicitation_options(frame.as_slice(), OFF, 32, OURS), Ok(()));
        for length in 0..24 {
            let judged = solicitation_options(frame.as_slice(), OFF, length, OURS);
            assert_eq!(judged, Err(DropReason::Malformed), "{length}");
        }
        assert_eq!(solicitation_options(frame.as_slice(), OFF, 5000, OURS), Err(DropReason::Malformed));
    }

    proptest! {
        #[test]
        fn whole_options_are_taken_and_cut_ones_are_not(
            kinds in proptest::collection::vec((2u8.., 1u8..3), 0..8),
            cut in 1usize..8,
        ) {
            let options: Vec<u8> =
                kinds.iter().flat_map(|(kind, len)| [vec![*kind, *len], vec![0; usize::from(*len) * 8 - 2]].concat()).collect();
            prop_assert_eq!(judge(&options), Ok(()));
            if !options.is_empty() {
                prop_assert_eq!(judge(&options[..options.len() - cut]), Err(DropReason::Malformed));
            }
        }

        #[test]
        fn any_bytes_are_judged(options in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = judge(&options);
        }
    }
}
