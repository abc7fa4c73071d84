//! Makes the object's type information acceptable to the kernel.
//!
//! Rust describes an enum that carries data by a union, whose member for the tag lies where the tag is. The kernel
//! refuses a union with a member that is not at offset 0, and with it all of the object's type information, on which
//! callbacks (`bpf_loop`) depend. Nothing reads these unions, so their members are put at offset 0.

/// Section that holds the type information.
const SECTION: &str = ".BTF";
const MAGIC: u16 = 0xeb9f;
const KIND_UNION: u32 = 5;
/// Bytes of `struct btf_type` without what follows it.
const TYPE_BYTES: usize = 12;

/// Puts every member of every union of an ELF object at offset 0; returns how many it moved.
pub fn settle_unions(elf: &mut [u8]) -> Result<usize, String> {
    let (start, end) = section(elf)?;
    let btf = elf.get_mut(start..end).ok_or("the section of the type information lies outside the object")?;
    if btf.first_chunk().map(|magic| u16::from_le_bytes(*magic)) != Some(MAGIC) {
        return Err("the type information has another magic number".into());
    }
    let header = word(btf, 4)?;
    let mut at = header + word(btf, 8)?;
    let end = at + word(btf, 12)?;
    let mut moved = 0;
    while at < end {
        let info = word(btf, at + 4)? as u32;
        let (kind, members) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        at += TYPE_BYTES;
        if kind == KIND_UNION {
            for member in 0..members {
                let offset = at + member * 12 + 8;
                if word(btf, offset)? & 0x00ff_ffff != 0 {
                    btf[offset..offset + 4].fill(0);
                    moved += 1;
                }
            }
        }
        at += trailer_bytes(kind, members)?;
    }
    Ok(moved)
}

/// Bytes that follow a type of this kind (`include/uapi/linux/btf.h`).
fn trailer_bytes(kind: u32, members: usize) -> Result<usize, String> {
    Ok(match kind {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats and type tags have none.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structs, unions, data sections, 64-bit enums.
        4 | KIND_UNION | 15 | 19 => 12 * members,
        // Enums, function prototypes.
        6 | 13 => 8 * members,
        other => return Err(format!("the type information has a kind {other} nobody knows")),
    })
}

/// Where the section lies in a 64-bit little-endian object.
fn section(elf: &[u8]) -> Result<(usize, usize), String> {
    let table = long(elf, 0x28)?;
    let [size, count, names] = [half(elf, 0x3a)?, half(elf, 0x3c)?, half(elf, 0x3e)?];
    let names = long(elf, table + names * size + 0x18)?;
    for header in (0..count).map(|i| table + i * size) {
        let name = elf.get(names + word(elf, header)?..).ok_or("a section's name lies outside the object")?;
        if name.starts_with(SECTION.as_bytes()) && name.get(SECTION.len()) == Some(&0) {
            let start = long(elf, header + 0x18)?;
            return Ok((start, start + long(elf, header + 0x20)?));
        }
    }
    Err(format!("the object has no section {SECTION}: was it linked without --btf?"))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().ok_or_else(|| format!("the object ends before byte {at}"))
}

fn half(bytes: &[u8], at: usize) -> Result<usize, String> {
    field(bytes, at).map(|f| usize::from(u16::from_le_bytes(f)))
}

fn word(bytes: &[u8], at: usize) -> Result<usize, String> {
    field(bytes, at).map(|f| u32::from_le_bytes(f) as usize)
}

fn long(bytes: &[u8], at: usize) -> Result<usize, String> {
    usize::try_from(u64::from_le_bytes(field(bytes, at)?)).map_err(|e| e.to_string())
}
