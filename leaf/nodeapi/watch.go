package nodeapi

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

const (
	bookmarkEvery = time.Minute
	// The timeout of a watch that requests none is between defaultWatch and twice that, as
	// at the API server.
	defaultWatch = 30 * time.Minute
)

// writeTimeout is the time for which a client may accept no data before its watch is closed.
// It is a variable so that a test can shorten it.
var writeTimeout = 30 * time.Second

// watchResponse writes the response to a watch.
type watchResponse struct {
	closing <-chan struct{}
	w       http.ResponseWriter
	rc      *http.ResponseController
	q       *request
	// bookmarks is set if the client wants bookmarks.
	bookmarks bool
}

func (h *handler) watch(w http.ResponseWriter, q *request) error {
	opts, err := listOptions(q.Request)
	if err != nil {
		return err
	}
	sel, err := selectionOf(q, opts)
	if err != nil {
		return err
	}
	watcher, initial, rv, err := h.startWatch(q, opts, sel)
	if err != nil {
		return err
	}
	defer watcher.Stop()
	s := &watchResponse{closing: h.closing, w: w, rc: http.NewResponseController(w), q: q, bookmarks: opts.AllowWatchBookmarks}
	w.Header().Set("Content-Type", map[bool]string{true: codec.TypeProtobuf + ";stream=watch", false: codec.TypeJSON}[q.out == codec.Protobuf])
	w.WriteHeader(http.StatusOK)
	for i, o := range initial {
		if err := s.object(watch.Added, o); err != nil {
			return s.fail(err)
		}
		// The memory of a sent object can be freed while the rest is sent.
		initial[i] = nil
	}
	if opts.SendInitialEvents != nil && *opts.SendInitialEvents && s.bookmarks {
		if err := s.bookmark(rv, true); err != nil {
			return s.fail(err)
		}
	}
	if err := s.flush(); err != nil {
		return s.fail(err)
	}
	return s.fail(s.follow(watcher, timeoutOf(opts)))
}

// startWatch starts a watch with the present objects, or after a resource version.
func (h *handler) startWatch(q *request, opts metav1.ListOptions, sel objects.Selection) (*objects.Watcher, []*objects.Object, uint64, error) {
	streaming := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	if opts.SendInitialEvents != nil && opts.ResourceVersionMatch != metav1.ResourceVersionMatchNotOlderThan {
		return nil, nil, 0, apierrors.NewBadRequest("sendInitialEvents requires resourceVersionMatch=NotOlderThan")
	}
	var since uint64
	if opts.ResourceVersion != "" {
		var err error
		if since, err = parseVersion(opts.ResourceVersion); err != nil {
			return nil, nil, 0, err
		}
	}
	if streaming || since == 0 {
		w, initial, rv := h.store.WatchAll(q.resource.GroupResource(), sel)
		if since > rv {
			w.Stop()
			return nil, nil, 0, expired(opts.ResourceVersion)
		}
		if opts.SendInitialEvents != nil && !streaming {
			initial = nil
		}
		return w, initial, rv, nil
	}
	w, err := h.store.WatchFrom(q.resource.GroupResource(), sel, since)
	if errors.Is(err, objects.ErrExpired) {
		return nil, nil, 0, expired(opts.ResourceVersion)
	}
	return w, nil, 0, err
}

func timeoutOf(opts metav1.ListOptions) time.Duration {
	if opts.TimeoutSeconds != nil && *opts.TimeoutSeconds > 0 {
		return time.Duration(*opts.TimeoutSeconds) * time.Second
	}
	return defaultWatch + rand.N(defaultWatch)
}

// follow sends events until the client disconnects, the server stops or the watch times out.
// After the timeout it sends a last bookmark, so that a watch without events resumes where it
// was.
func (s *watchResponse) follow(w *objects.Watcher, limit time.Duration) error {
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(bookmarkEvery)
	defer tick.Stop()
	for {
		sendBookmark, timedOut := false, false
		select {
		case <-s.q.Context().Done():
			return nil
		case <-s.closing:
			return nil
		case <-w.Ready():
		case <-tick.C:
			sendBookmark = s.bookmarks
		case <-end.C:
			sendBookmark, timedOut = s.bookmarks, true
		}
		events, rv, err := w.Drain()
		if err != nil {
			return err
		}
		for _, ev := range events {
			if err := s.object(ev.Kind, ev.Object); err != nil {
				return err
			}
		}
		if sendBookmark {
			if err := s.bookmark(rv, false); err != nil {
				return err
			}
		}
		if len(events) > 0 || sendBookmark {
			if err := s.flush(); err != nil {
				return err
			}
		}
		if timedOut {
			return nil
		}
	}
}

func (s *watchResponse) object(kind watch.EventType, o *objects.Object) error {
	body, err := codec.Encoded(s.q.out, o)
	if err != nil {
		return err
	}
	return s.frame(kind, body)
}

func (s *watchResponse) bookmark(rv uint64, initialEnd bool) error {
	body, err := codec.Bookmark(s.q.out, s.q.resource.GVK(), rv, initialEnd)
	if err != nil {
		return err
	}
	return s.frame(watch.Bookmark, body)
}

func (s *watchResponse) frame(kind watch.EventType, body []byte) error {
	if err := s.deadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return codec.WriteFrame(s.w, s.q.out, kind, body)
}

// flush ends a batch of frames and clears their write deadline: HTTP/2 would reset the stream
// when it passes, even while there is nothing to write.
func (s *watchResponse) flush() error {
	return errors.Join(s.rc.Flush(), s.deadline(time.Time{}))
}

func (s *watchResponse) deadline(at time.Time) error {
	if err := s.rc.SetWriteDeadline(at); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// fail ends the watch with an ERROR event, because the header has been sent already.
func (s *watchResponse) fail(err error) error {
	if err == nil || s.q.Context().Err() != nil {
		return nil
	}
	if errors.Is(err, objects.ErrExpired) {
		err = apierrors.NewResourceExpired("the watch is too slow and has lost events: list again")
	}
	status := codec.StatusOf(err)
	body, encErr := codec.EncodeTyped(s.q.out, &status)
	if encErr == nil && s.frame(watch.Error, body) == nil {
		// The client may have disconnected.
		_ = s.flush()
	}
	return nil
}
