//! Stack depth of each program, read off its instructions.
//!
//! The kernel reports it only in the verifier's log, which the loader keeps only for programs that are refused. The
//! rule is simple enough to apply here: a frame is as deep as the lowest byte the function touches below its frame
//! pointer, rounded up to 32, and the limit is on the sum along a call chain.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aya_obj::generated::bpf_insn;
use aya_obj::{Function, Object};

/// The frame pointer's register number.
const FRAME_POINTER: u8 = 10;

/// `src_reg` of a call to another function of the same program.
const PSEUDO_CALL: u8 = 1;

/// `src_reg` of a 64-bit load that is the address of a function (a callback).
const PSEUDO_FUNC: u8 = 4;

const CALL: u8 = 0x85;
const LOAD_IMM64: u8 = 0x18;
const MOV64_REG: u8 = 0xbf;
const ADD64_IMM: u8 = 0x07;

/// The instructions of an object.
pub struct Code {
    object: Object,
    /// Names of functions by the BTF type that describes each.
    names: BTreeMap<u32, String>,
}

/// A chain of calls and the stack it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// In all.
    pub bytes: u32,
    /// Where each function begins, and its own frame; the program first.
    frames: Vec<(usize, u32)>,
}

impl Code {
    /// Reads an object file and joins each program with the functions it calls.
    pub fn parse(object: &[u8]) -> Result<Self> {
        let mut object = Object::parse(object).context("not an eBPF object")?;
        let name = |function: &Function| Some((function.func_info.func_info.first()?.type_id, function.name.clone()));
        let names = object.functions.values().filter_map(name).collect();
        let text_sections = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_calls(&text_sections).context("a call in the object leads nowhere")?;
        Ok(Self { object, names })
    }

    /// Bytes of stack of a program, over its deepest call chain; none if the object has no such program.
    pub fn stack_bytes(&self, program: &str) -> Option<u32> {
        let insns: Vec<Insn> = self.function(program)?.instructions.iter().map(Insn::from).collect();
        Some(deepest_chain(&insns, 0, &mut BTreeMap::new()).bytes)
    }

    /// The deepest call chain of a program, a line for each function.
    pub fn describe_stack(&self, program: &str) -> String {
        let Some(function) = self.function(program) else { return String::new() };
        let insns: Vec<Insn> = function.instructions.iter().map(Insn::from).collect();
        let chain = deepest_chain(&insns, 0, &mut BTreeMap::new());
        let infos = &function.func_info.func_info;
        let name = |start: usize| {
            let info = infos.iter().find(|info| usize::try_from(info.insn_off) == Ok(start));
            info.and_then(|info| self.names.get(&info.type_id)).map_or("?", String::as_str)
        };
        let lines = chain.frames.iter().map(|&(start, bytes)| format!("  {bytes:>4} {}", name(start)));
        let head = format!("stack of {program}, deepest chain: {} of 512 bytes", chain.bytes);
        [head].into_iter().chain(lines).collect::<Vec<_>>().join("\n")
    }

    fn function(&self, program: &str) -> Option<&Function> {
        self.object.functions.get(&self.object.programs.get(program)?.function_key())
    }

    /// What to look at first when the kernel refuses a program.
    pub fn suspicion(&self) -> String {
        // A call that never returns ends its function, which the verifier words as "last insn is not an exit or jmp".
        let panics =
            self.object.functions.values().map(|function| function.name.as_str()).filter(|name| name.contains("panic"));
        let panics: Vec<&str> = panics.collect();
        match panics.is_empty() {
            true => "the object has no path to a panic".into(),
            false => format!("the object has paths to a panic, which no verifier takes: {}", panics.join(", ")),
        }
    }
}

/// The parts of an instruction that matter here.
#[derive(Clone, Copy, Debug, Default)]
struct Insn {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

impl From<&bpf_insn> for Insn {
    fn from(insn: &bpf_insn) -> Self {
        Self { code: insn.code, dst: insn.dst_reg(), src: insn.src_reg(), off: insn.off, imm: insn.imm }
    }
}

impl Insn {
    /// Index of the function this instruction calls or takes the address of.
    fn callee(self, at: usize) -> Option<usize> {
        let calls = self.code == CALL && self.src == PSEUDO_CALL || self.code == LOAD_IMM64 && self.src == PSEUDO_FUNC;
        calls.then(|| at.checked_add_signed(1 + self.imm as isize)).flatten()
    }

    /// Whether it overwrites its destination register.
    fn writes_dst(self) -> bool {
        // Class: LD, LDX, ALU, ALU64; the others store or jump.
        matches!(self.code & 7, 0 | 1 | 4 | 7)
    }
}

/// The function at `start` and the deepest chain it calls. The verifier refuses recursion, so this ends; `known` keeps
/// shared callees from being walked again.
fn deepest_chain(insns: &[Insn], start: usize, known: &mut BTreeMap<usize, Chain>) -> Chain {
    if let Some(chain) = known.get(&start) {
        return chain.clone();
    }
    // Marked before the walk: were there a cycle, it would end here.
    known.insert(start, Chain::default());
    let end = starts(insns).range(start + 1..).next().copied().unwrap_or(insns.len());
    let body = insns.get(start..end).unwrap_or_default();
    let callees: BTreeSet<usize> = body.iter().enumerate().filter_map(|(i, insn)| insn.callee(start + i)).collect();
    let chains = callees.into_iter().map(|callee| deepest_chain(insns, callee, known));
    let deepest = chains.max_by_key(|chain| chain.bytes).unwrap_or_default();
    // An empty frame counts as one byte.
    let frame = frame_depth(body).max(1).next_multiple_of(32);
    let frames = [(start, frame)].into_iter().chain(deepest.frames).collect();
    let chain = Chain { bytes: frame + deepest.bytes, frames };
    known.insert(start, chain.clone());
    chain
}

/// Where the program's functions begin.
fn starts(insns: &[Insn]) -> BTreeSet<usize> {
    insns.iter().enumerate().filter_map(|(i, insn)| insn.callee(i)).chain([0]).collect()
}

/// Bytes below the frame pointer that a function touches: directly, or through a register that was made to point there.
fn frame_depth(body: &[Insn]) -> u32 {
    let mut lowest = 0i32;
    // Offset from the frame pointer of each register that points into the frame. Followed in program order, not along
    // branches: the compiler makes such a pointer right before it uses it.
    let mut pointers = [None::<i32>; FRAME_POINTER as usize + 1];
    pointers[usize::from(FRAME_POINTER)] = Some(0);
    for insn in body {
        let (dst, src) = (usize::from(insn.dst.min(FRAME_POINTER)), usize::from(insn.src.min(FRAME_POINTER)));
        match insn.code {
            MOV64_REG if insn.off == 0 => pointers[dst] = pointers[src],
            ADD64_IMM => pointers[dst] = pointers[dst].map(|offset| offset + insn.imm),
            code => {
                let base = if code & 7 == 1 { src } else { dst };
                let is_memory = matches!(code & 7, 1..=3);
                if let Some(offset) = pointers[base].filter(|_| is_memory) {
                    lowest = lowest.min(offset + i32::from(insn.off));
                }
                if insn.writes_dst() && dst != usize::from(FRAME_POINTER) {
                    pointers[dst] = None;
                }
            }
        }
        // A pointer handed to a helper counts as touched from where it points.
        lowest = pointers.iter().flatten().copied().fold(lowest, i32::min);
    }
    lowest.unsigned_abs().next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Insn = Insn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 };

    /// `*(u64 *)(r10 + off) = r1`
    fn spill(off: i16) -> Insn {
        Insn { code: 0x7b, dst: 10, src: 1, off, imm: 0 }
    }

    fn call(imm: i32) -> Insn {
        Insn { code: CALL, src: PSEUDO_CALL, imm, ..Insn::default() }
    }

    fn depth(insns: &[Insn]) -> u32 {
        deepest_chain(insns, 0, &mut BTreeMap::new()).bytes
    }

    #[test]
    fn a_frame_is_its_lowest_byte_rounded_up() {
        assert_eq!(depth(&[EXIT]), 32);
        assert_eq!(depth(&[spill(-8), EXIT]), 32);
        assert_eq!(depth(&[spill(-40), spill(-8), EXIT]), 64);
    }

    #[test]
    fn a_pointer_into_the_frame_counts() {
        let take = Insn { code: MOV64_REG, dst: 2, src: 10, off: 0, imm: 0 };
        let below = Insn { code: ADD64_IMM, dst: 2, src: 0, off: 0, imm: -100 };
        assert_eq!(depth(&[take, below, EXIT]), 128);
        // A register that was overwritten no longer points there.
        let constant = Insn { code: 0xb7, dst: 2, src: 0, off: 0, imm: 1 };
        assert_eq!(depth(&[take, constant, below, EXIT]), 32);
    }

    #[test]
    fn the_deepest_chain_counts_not_the_sum_of_all() {
        // main calls a (at 4) and b (at 6); each has a frame of its own.
        let program = [spill(-8), call(2), call(3), EXIT, spill(-64), EXIT, spill(-200), EXIT];
        let chain = deepest_chain(&program, 0, &mut BTreeMap::new());
        assert_eq!(chain, Chain { bytes: 32 + 224, frames: vec![(0, 32), (6, 224)] });
    }
}
