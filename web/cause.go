package web

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
)

// exceptionClass is what Java clients are told that an error is.
const exceptionClass = "java.lang.RuntimeException"

// newCause describes an error for Flink's Java clients.
func newCause(text string) *causeJSON {
	return &causeJSON{Class: exceptionClass, StackTrace: text, Serialized: base64.StdEncoding.EncodeToString(serializedThrowable(text))}
}

// serializedThrowable writes an org.apache.flink.util.SerializedThrowable as Java's object serialization does
// (https://docs.oracle.com/en/java/javase/17/docs/specs/serialization/protocol.html). Its stack trace is the text; it wraps
// no other exception.
func serializedThrowable(text string) []byte {
	var b javaWriter
	b.Write([]byte{0xac, 0xed, 0, 5})
	b.object()
	b.class("org.apache.flink.util.SerializedThrowable", 0x65169df51fa713f3, 2)
	b.u16(3)
	b.field('L', "fullStringifiedStackTrace", "Ljava/lang/String;") // handle 1 is this type's name
	b.field('L', "originalErrorClassName", "")
	b.field('[', "serializedException", "[B")
	b.endClass()
	b.class("java.lang.Exception", 0xd0fd1f3e1a3b1cc4, 2)
	b.u16(0)
	b.endClass()
	b.class("java.lang.Throwable", 0xd5c635273977b8cb, 3)
	b.u16(4)
	b.field('L', "cause", "Ljava/lang/Throwable;")
	b.field('L', "detailMessage", "")
	b.field('[', "stackTrace", "[Ljava/lang/StackTraceElement;")
	b.field('L', "suppressedExceptions", "Ljava/util/List;")
	b.endClass()
	b.null() // no more superclasses
	// Throwable: cause, detailMessage, stackTrace, suppressedExceptions
	b.null()
	b.text(exceptionClass + ": " + text)
	b.WriteByte(tcArray)
	b.class("[Ljava.lang.StackTraceElement;", 0x02462a3c3cfd2239, 2)
	b.u16(0)
	b.endClass()
	b.null()
	b.Write([]byte{0, 0, 0, 0}) // no elements
	b.null()                    // suppression is off
	b.WriteByte(tcEndBlock)
	// SerializedThrowable: fullStringifiedStackTrace, originalErrorClassName, serializedException
	b.text(exceptionClass + ": " + text)
	b.text(exceptionClass)
	b.null()
	return b.Bytes()
}

// Tags of Java's serialization stream.
const (
	tcNull       = 0x70
	tcReference  = 0x71
	tcClassDesc  = 0x72
	tcObject     = 0x73
	tcString     = 0x74
	tcArray      = 0x75
	tcEndBlock   = 0x78
	tcLongString = 0x7c
)

// javaWriter writes pieces of a serialization stream.
type javaWriter struct{ bytes.Buffer }

func (b *javaWriter) u16(n int) { b.Write(binary.BigEndian.AppendUint16(nil, uint16(n))) }

func (b *javaWriter) null() { b.WriteByte(tcNull) }

func (b *javaWriter) object() { b.WriteByte(tcObject) }

// name writes a short ASCII name.
func (b *javaWriter) name(s string) {
	b.u16(len(s))
	b.WriteString(s)
}

// class begins a class description; flags 2 is serializable, 3 with a writeObject of its own.
func (b *javaWriter) class(name string, uid uint64, flags byte) {
	b.WriteByte(tcClassDesc)
	b.name(name)
	b.Write(binary.BigEndian.AppendUint64(nil, uid))
	b.WriteByte(flags)
}

func (b *javaWriter) endClass() { b.WriteByte(tcEndBlock) }

// field describes a field of a reference type; "" is the type of the first one, String, by reference.
func (b *javaWriter) field(kind byte, name, typ string) {
	b.WriteByte(kind)
	b.name(name)
	if typ == "" {
		b.Write([]byte{tcReference, 0, 0x7e, 0, 1})
		return
	}
	b.WriteByte(tcString)
	b.name(typ)
}

// text writes a string in Java's modified UTF-8.
func (b *javaWriter) text(s string) {
	data := modifiedUTF8(s)
	if len(data) < 1<<16 {
		b.WriteByte(tcString)
		b.u16(len(data))
	} else {
		b.WriteByte(tcLongString)
		b.Write(binary.BigEndian.AppendUint64(nil, uint64(len(data))))
	}
	b.Write(data)
}

// modifiedUTF8 has no zero bytes, and two times three bytes for what is beyond the basic plane.
func modifiedUTF8(s string) []byte {
	var out []byte
	unit := func(c rune) {
		out = append(out, 0xe0|byte(c>>12), 0x80|byte(c>>6)&0xbf, 0x80|byte(c)&0xbf)
	}
	for _, c := range s {
		switch {
		case c == 0:
			out = append(out, 0xc0, 0x80)
		case c >= 0x10000:
			c -= 0x10000
			unit(0xd800 + c>>10)
			unit(0xdc00 + c&0x3ff)
		default:
			out = append(out, string(c)...)
		}
	}
	return out
}
