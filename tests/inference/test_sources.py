"""All kinds of sources, and names of their results."""

import io
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from media import write_image, write_video

from mmfocal.errors import DataError, MissingFileError
from mmfocal.inference.sources import Sources


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(('a.png', 'b/a.png', 'b/A.PNG', 'b/c.png', 'b/.hidden.png')):
        write_image(tmp_path / 'photos' / name, 10 * i)
    (tmp_path / 'photos/notes.txt').write_text('no image')
    return tmp_path / 'photos'


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp('server')
    write_image(root / 'my photo.png', 77)
    write_video(root / 'clip.mp4')
    (root / 'short.png').write_bytes((root / 'my photo.png').read_bytes()[:50])

    class Handler(SimpleHTTPRequestHandler):
        log_message = staticmethod(lambda *_: None)

        def do_GET(self):
            if self.path.startswith('/short'):  # promises more than it sends
                self.send_response(200)
                self.send_header('Content-Length', '5000')
                self.end_headers()
                self.wfile.write(b'few')
            else:
                super().do_GET()

    httpd = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{httpd.server_port}'
    httpd.shutdown()
    httpd.server_close()


def test_files_folders_and_patterns(folder):
    frames = list(Sources(['photos']))
    assert [frame.name for frame in frames] == ['a', 'b/A', 'b/a_2', 'b/c']  # unique where case does not count
    assert [frame.source for frame in frames] == [
        f'photos/{name}' for name in ('a.png', 'b/A.PNG', 'b/a.png', 'b/c.png')
    ]
    assert frames[3].image.shape == (20, 30, 3) and (frames[3].image == 30).all()
    assert [frame.name for frame in Sources(['photos/a.png', 'photos/b/a.png'])] == ['a', 'a_2']
    assert [frame.name for frame in Sources(['photos/**/a.png'])] == ['a', 'b/a']
    assert [frame.name for frame in Sources(['photos/b/[ac].png'])] == ['a', 'c']
    assert Sources(['photos', 'photos/a.png']).count() == 5
    (folder / 'odd [1] name?.png').write_bytes((folder / 'a.png').read_bytes())
    (frame,) = Sources(['photos/odd [1] name?.png'])  # a file, though it looks like a pattern
    assert frame.name == 'odd _1_ name_' and not frame.error


def test_results_in_the_folder_are_left_out(folder):
    write_image(folder / 'out/pictures/a.png')
    assert len(list(Sources(['photos'], without='photos/out'))) == 4
    assert len(list(Sources(['photos/**/*.png'], without='photos/out'))) == 3


def test_what_does_not_exist_is_one_sentence(folder):
    (folder / 'empty').mkdir()
    for source, kind, words in (
        ('absent.png', MissingFileError, 'no such file'),
        ('photos/*.gif', MissingFileError, 'no file matches'),
        ('photos/empty', DataError, 'no image or video'),
    ):
        with pytest.raises(kind, match=words):
            Sources(['photos', source])


def test_unreadable_files_are_reported_among_the_others(folder):
    write_image(folder / 'e.jpg', size=(90, 90))
    (folder / 'e.jpg').write_bytes((folder / 'e.jpg').read_bytes()[:300])
    (folder / 'd.png').write_bytes(b'')
    errors = [frame for frame in Sources(['photos', 'photos/notes.txt']) if frame.image is None]
    assert [(frame.name, frame.source) for frame in errors] == [
        ('d', 'photos/d.png'), ('e', 'photos/e.jpg'), ('notes', 'photos/notes.txt')
    ]  # fmt: skip
    for frame, words in zip(errors, ('no bytes', 'truncated', 'not an image')):
        assert frame.error.startswith(f'{frame.source}: ') and words in frame.error


@pytest.mark.parametrize('suffix', ['.mp4', '.avi'])
def test_videos(tmp_path, suffix):
    path = write_video(tmp_path / f'clip{suffix}')
    sources = Sources([str(path), str(path)])
    assert sources.count() == 12
    frames = list(sources)
    assert [frame.name for frame in frames[:2]] == ['clip/000000', 'clip/000001'] and frames[6].name == 'clip_2/000000'
    assert frames[1].source == f'{path}#1' and frames[1].video == 'clip' and frames[7].video == 'clip_2'
    assert frames[0].fps == 10 and abs(int(frames[3].image.mean()) - 80) < 5


def test_broken_videos_and_absent_cameras(tmp_path, capfd):
    whole = write_video(tmp_path / 'a.avi', frames=40).read_bytes()
    (tmp_path / 'half.avi').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'text.mp4').write_text('no video')
    frames = list(Sources([str(tmp_path / 'half.avi')]))
    assert 5 < len(frames) < 40 and all(frame.image is not None for frame in frames[:-1])
    assert 'of 40 frames' in frames[-1].error or 'no frame' in frames[-1].error
    for source, words in ((str(tmp_path / 'text.mp4'), 'not a video'), ('97', 'no such camera')):
        (frame,) = Sources([source])
        assert frame.image is None and words in frame.error
    assert not capfd.readouterr().err  # of the decoders


def test_urls(server):
    image, video, absent, short, nobody = (
        list(Sources([url]))
        for url in (
            f'{server}/my%20photo.png?size=1',
            f'{server}/clip.mp4',
            f'{server}/absent.png',
            f'{server}/short',
            'http://127.0.0.1:9/a.png',
        )
    )
    assert image[0].name == 'my photo' and (image[0].image == 77).all()
    assert len(video) == 6 and video[0].video == 'clip'
    assert 'absent.png: cannot be read (' in absent[0].error and 'ot found' in absent[0].error
    assert 'of 5000 bytes' in short[0].error or 'cannot be read' in short[0].error
    assert 'refused' in nobody[0].error and Sources([f'{server}/clip.mp4']).count() is None


def test_paths_on_standard_input(folder, monkeypatch, server):
    lines = f'photos/a.png\n\nphotos/absent.png\nphotos/b\n{server}/my%20photo.png\n'
    monkeypatch.setattr(sys, 'stdin', io.StringIO(lines))
    sources = Sources(['-'])
    assert sources.count() is None
    frames = list(sources)
    assert [frame.name for frame in frames] == ['a', 'absent', 'A_2', 'a_3', 'c', 'my photo']
    assert [bool(frame.error) for frame in frames] == [False, True, False, False, False, False]
