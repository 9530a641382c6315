//! A relay that repairs what the kubelet says of the host when it dials a registration: the socket's path with `%2F` for
//! its slashes, which HTTP's syntax does not allow in `:authority` and hyper therefore refuses.

use std::{io, path::PathBuf};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{UnixListener, UnixStream},
};

/// What a client of HTTP/2 sends first.
const PREFACE: usize = 24;
/// Length, type, flags and stream of a frame.
const HEAD: usize = 9;
/// Type of a frame of header fields.
const HEADERS: u8 = 1;
/// Index of `:authority` in HPACK's static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// What is said instead.
const HOST: &[u8] = b"localhost";

/// Hands every connection on to another socket.
pub(super) async fn relay(listener: UnixListener, to: PathBuf) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let to = to.clone();
        tokio::spawn(async move {
            if let Err(error) = connect(client, to).await {
                tracing::debug!(%error, "a registration went away");
            }
        });
    }
}

async fn connect(client: UnixStream, to: PathBuf) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = UnixStream::connect(to).await?.into_split();
    let answers = copy(&mut from_server, &mut to_client);
    let requests = async {
        let mut preface = [0; PREFACE];
        from_client.read_exact(&mut preface).await?;
        to_server.write_all(&preface).await?;
        loop {
            let mut head = [0; HEAD];
            from_client.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            from_client.read_exact(&mut payload).await?;
            if head[3] == HEADERS {
                payload = repaired(&payload).ok_or(io::ErrorKind::InvalidData)?;
                let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
                head[..3].copy_from_slice(&length.to_be_bytes()[1..]);
            }
            to_server.write_all(&head).await?;
            to_server.write_all(&payload).await?;
        }
    };
    tokio::select! {
        ended = answers => ended.map(drop),
        ended = requests => ended,
    }
}

/// A block of header fields with another value of `:authority`; none if it is cut short.
fn repaired(block: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(block.len());
    let mut at = 0;
    while at < block.len() {
        let start = at;
        let first = block[at];
        // Whole fields by index, and sizes of the table, have no text.
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(block, &mut at, prefix)?;
        let literal = !matches!(first, 0x20..=0x3f | 0x80..);
        if literal && index == 0 {
            text(block, &mut at)?;
        }
        if literal && index == AUTHORITY {
            out.extend(&block[start..at]);
            text(block, &mut at)?;
            out.push(HOST.len() as u8);
            out.extend(HOST);
            continue;
        }
        if literal {
            text(block, &mut at)?;
        }
        out.extend(block.get(start..at)?);
    }
    Some(out)
}

/// An integer whose first byte has so many bits for it (RFC 7541, 5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Passes by a text, whatever its coding.
fn text(block: &[u8], at: &mut usize) -> Option<()> {
    let length = integer(block, at, 7)?;
    *at += length;
    (*at <= block.len()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::repaired;

    #[test]
    fn the_host_is_replaced_and_every_other_field_is_as_it_was() {
        // :method POST and :scheme http by index; :path /a, :authority %2Fx, te: trailers as literals; a new name.
        let before = b"\x83\x86\x44\x02/a\x41\x04%2Fx\x00\x02te\x08trailers\x40\x01n\x01v";
        let after = b"\x83\x86\x44\x02/a\x41\x09localhost\x00\x02te\x08trailers\x40\x01n\x01v";
        assert_eq!(repaired(before).unwrap(), after);
        // Later requests name the same field by its index.
        assert_eq!(repaired(b"\x83\xbe").unwrap(), b"\x83\xbe");
        assert_eq!(repaired(b"\x41\x7f"), None);
    }
}
