"""Laws of the door: a password where others can knock, no guessing, no other site's page."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from mascot.errors import UserError
from mascot.studio.server.password import FREE, TOGETHER, Attempts, Door, check_address
from mascot.studio.server.protection import Protection
from mascot.studio.sessions import COOKIE, GiveSession, cookie_of

PASSWORD = "correct horse"  # noqa: S105 - a test's


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def app() -> FastAPI:
    app = FastAPI()
    app.get("/secret")(lambda: "seen")
    app.post("/change")(lambda: "done")
    return app


def client(**options: object) -> TestClient:
    guarded = app()
    guarded.add_middleware(Door, password=PASSWORD, **options)
    return TestClient(guarded, base_url="http://127.0.0.1", follow_redirects=False)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.3.2.1"])
def test_this_machine_needs_no_password(address: str) -> None:
    check_address(address, None)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104 - refused
def test_any_other_address_does(address: str) -> None:
    with pytest.raises(UserError, match="needs a password"):
        check_address(address, None)
    check_address(address, PASSWORD)
    with pytest.raises(UserError, match="fewer than 8"):
        check_address(address, "short")


def test_nothing_is_shown_before_the_password() -> None:
    visitor = client()
    assert visitor.get("/secret").status_code == visitor.post("/change").status_code == 401
    page = visitor.get("/secret", headers={"accept": "text/html"})
    assert (page.status_code, "seen" in page.text, "password" in page.text) == (401, False, True)
    assert visitor.post("/login", data={"password": "wrong"}).status_code == 401
    assert visitor.get("/secret").status_code == 401
    assert visitor.post("/login", data={"password": PASSWORD}).status_code == 303
    assert visitor.get("/secret").text == '"seen"'
    other = client()
    other.cookies.update(dict(visitor.cookies))
    assert other.get("/secret").status_code == 401, "another start, another cookie"


@pytest.mark.parametrize(
    "said", ["", "é", "\ud800".encode(errors="surrogatepass").decode(errors="replace"), "x" * 100_000]
)
def test_odd_passwords_are_wrong_ones(said: str) -> None:
    assert client().post("/login", data={"password": said}).status_code == 401


def test_guessing_becomes_slow() -> None:
    clock = Clock()
    visitor = client(attempts=Attempts(clock))
    codes = [visitor.post("/login", data={"password": f"guess {i}"}).status_code for i in range(FREE + 2)]
    assert codes == [401] * FREE + [429] * 2
    answer = visitor.post("/login", data={"password": PASSWORD})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1"), "even the right one waits"
    for _ in range(12):
        clock.now += 301
        visitor.post("/login", data={"password": "guess"})
    assert visitor.post("/login", data={"password": PASSWORD}).headers["retry-after"] == "300"
    clock.now += 301
    assert visitor.post("/login", data={"password": PASSWORD}).status_code == 303


def test_many_addresses_wait_together() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for number in range(TOGETHER):
        attempts.fail(f"10.0.{number // 250}.{number % 250}")
    assert attempts.wait("10.9.9.9") > 0
    clock.now += 61
    assert attempts.wait("10.9.9.9") == 0


def test_a_page_of_another_site_can_do_nothing() -> None:
    guarded = app()
    guarded.add_middleware(Protection, names={"127.0.0.1"})
    here = TestClient(guarded, base_url="http://127.0.0.1:7860")
    assert here.get("/secret").status_code == 200
    assert here.get("/secret", headers={"host": "evil.example"}).status_code == 403, "a name that leads here"
    assert here.post("/change", headers={"origin": "http://evil.example"}).status_code == 403
    assert here.post("/change", headers={"origin": "null"}).status_code == 403
    assert here.post("/change", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200
    assert TestClient(guarded, base_url="http://localhost").get("/secret").status_code == 200


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    guarded = app()
    guarded.add_middleware(Protection, names=None)
    headers = TestClient(guarded).get("/secret").headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_each_browser_gets_a_secret_of_its_own() -> None:
    guarded = app()
    guarded.add_middleware(GiveSession)
    one, other = (TestClient(guarded) for _ in range(2))
    given = [visitor.get("/secret").headers["set-cookie"] for visitor in (one, other)]
    assert given[0] != given[1]
    assert all("HttpOnly" in cookie and "SameSite=Lax" in cookie for cookie in given)
    assert "set-cookie" not in one.get("/secret").headers
    forged = TestClient(guarded).get("/secret", headers={"cookie": f"{COOKIE}=../../etc"})
    assert "set-cookie" in forged.headers, "a cookie of another form is no session"


def test_a_damaged_cookie_is_none() -> None:
    assert cookie_of({"headers": [(b"cookie", b"a=b; \xff\xfe;;=")]}) is None
