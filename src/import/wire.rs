//! Protocol Buffers, as bytes: fields, one after the other, without decoding what is inside them.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

/// What is wrong with the bytes.
pub(super) type Damaged = &'static str;

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// A number, of whatever width.
    Number(u64),
    /// A string, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    /// Its number.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// The field as a whole: tag, length and value.
    pub whole: &'a [u8],
    /// Where the value starts, counted from the start of the file.
    pub offset: usize,
}

impl<'a> Field<'a> {
    /// The value as bytes.
    pub fn bytes(&self) -> Result<&'a [u8], Damaged> {
        match self.value {
            Value::Bytes(b) => Ok(b),
            Value::Number(_) => Err("a number stands where text or a message should be"),
        }
    }

    /// The value as text.
    pub fn text(&self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a name is not UTF-8")
    }

    /// The value as a number.
    pub fn number(&self) -> Result<i64, Damaged> {
        match self.value {
            Value::Number(n) => Ok(n as i64),
            Value::Bytes(_) => Err("text or a message stands where a number should be"),
        }
    }

    /// The fields of the message inside.
    pub fn fields(&self) -> Result<Fields<'a>, Damaged> {
        Ok(Fields { bytes: self.bytes()?, at: 0, base: self.offset })
    }

    /// A repeated number: one of them, or several, packed.
    pub fn numbers(&self, into: &mut Vec<i64>) -> Result<(), Damaged> {
        match self.value {
            Value::Number(n) => into.push(n as i64),
            Value::Bytes(bytes) => {
                let mut at = 0;
                while at < bytes.len() {
                    into.push(varint(bytes, &mut at)? as i64);
                }
            }
        }
        Ok(())
    }
}

/// The fields of a message.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    base: usize,
}

impl<'a> Fields<'a> {
    /// The fields of a whole file.
    pub fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0, base: 0 }
    }

    fn read(&mut self) -> Result<Field<'a>, Damaged> {
        let start = self.at;
        let tag = varint(self.bytes, &mut self.at)?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a field's number is impossible")?;
        if number == 0 {
            return Err("a field's number is 0");
        }
        let mut take = |n: usize| {
            let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len()).ok_or("it is cut short")?;
            let bytes = &self.bytes[self.at..end];
            self.at = end;
            Ok::<_, Damaged>(bytes)
        };
        let value = match tag & 7 {
            0 => Value::Number(varint(self.bytes, &mut self.at)?),
            1 => Value::Number(u64::from_le_bytes(take(8)?.try_into().unwrap_or_default())),
            5 => Value::Number(u32::from_le_bytes(take(4)?.try_into().unwrap_or_default()) as u64),
            2 => {
                let len = varint(self.bytes, &mut self.at)?;
                let end = usize::try_from(len).ok().and_then(|n| self.at.checked_add(n));
                let end = end.filter(|&end| end <= self.bytes.len()).ok_or("it is cut short")?;
                let bytes = &self.bytes[self.at..end];
                self.at = end;
                Value::Bytes(bytes)
            }
            _ => return Err("a field is of an unknown kind"),
        };
        let len = if let Value::Bytes(b) = value { b.len() } else { 0 };
        Ok(Field { number, value, whole: &self.bytes[start..self.at], offset: self.base + self.at - len })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Damaged>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, Damaged> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or("it is cut short")?;
        *at += 1;
        value |= ((byte & 0x7f) as u64) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number is too long")
}

/// Appends a number.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field that holds bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, (number as u64) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_written() {
        let mut message = Vec::new();
        put_varint(&mut message, 3 << 3);
        put_varint(&mut message, 300);
        put_bytes(&mut message, 7, b"abc");
        let fields: Vec<Field> = Fields::of(&message).map(Result::unwrap).collect();
        assert_eq!(fields.len(), 2);
        assert_eq!((fields[0].number, fields[0].number().unwrap()), (3, 300));
        assert_eq!((fields[1].number, fields[1].text().unwrap()), (7, "abc"));
        assert_eq!(fields[1].offset, message.len() - 3);
        assert_eq!([fields[0].whole, fields[1].whole].concat(), message);
    }

    #[test]
    fn every_cut_is_seen_or_clean() {
        let mut message = Vec::new();
        put_bytes(&mut message, 7, &[1; 200]);
        put_varint(&mut message, 5 << 3 | 5);
        message.extend([1, 2, 3, 4]);
        for cut in 1..message.len() {
            let result: Result<Vec<Field>, Damaged> = Fields::of(&message[..cut]).collect();
            assert_eq!(result.is_ok(), cut == 203, "cut at {cut}");
        }
        assert!(Fields::of(&[0xff; 12]).next().unwrap().is_err());
    }
}
