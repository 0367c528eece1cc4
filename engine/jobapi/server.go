package jobapi

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// maxMessage bounds a message, in bytes: a pipeline comes in one, an artifact in chunks.
const maxMessage = 128 << 20

// ServerOptions are the options of a gRPC server for a Service. Calls that fail are logged: they are the client's
// affair, and clients do not always show them. A panic in a handler fails that call and not the other jobs.
func ServerOptions(log *slog.Logger) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		// SDKs keep idle channels alive with pings, which gRPC would otherwise punish by closing the connection.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
			defer func() { err = outcome(log, info.FullMethod, recover(), err) }()
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer func() { err = outcome(log, info.FullMethod, recover(), err) }()
			return next(srv, stream)
		}),
	}
}

// outcome logs how a call ended if it failed, and turns a panic into an error.
func outcome(log *slog.Logger, method string, panicked any, err error) error {
	if panicked != nil {
		log.Error("call panicked", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		return status.Errorf(codes.Internal, "%s: internal error: %v; the server's log has the stack", method, panicked)
	}
	if err != nil {
		s, level := status.Convert(err), slog.LevelInfo
		if s.Code() == codes.NotFound || s.Code() == codes.Canceled { // Python asks for the streams of a preparation first
			level = slog.LevelDebug
		}
		log.Log(context.Background(), level, "call refused", "method", method, "code", s.Code().String(), "reason", s.Message())
	}
	return err
}
